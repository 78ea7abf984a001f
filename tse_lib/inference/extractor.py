"""Extract one talker from recordings of any length, sample rate and number of channels, with a trained model."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tse_lib import audio
from tse_lib.config import Calibration, Deployed, Inference
from tse_lib.inference.chunked import infer
from tse_lib.inference.profile import Profile, fingerprint, refuse_unfit
from tse_lib.metrics import detection

Wave = np.ndarray | Tensor
Enrolment = Wave | Profile


class Extractor:
    """A trained model ready for use.

    Example:
        extractor = tse_lib.load("exp/tse/best.pt")
        alice = extractor.extract(mixture, alice_alone, sample_rate)
        extractor.enroll([alice_alone, alice_again], sample_rate).save("alice.npz")
        alice = extractor.extract(mixture, tse_lib.load_profile("alice.npz"), sample_rate)
    """

    def __init__(self, model: nn.Module, conf: Deployed, device: torch.device | str = "cpu"):
        self.model, self.conf, self.device = model.to(device).eval(), conf, torch.device(device)

    @property
    def sample_rate(self) -> int:
        return self.conf.sample_rate

    @functools.cached_property
    def fingerprint(self) -> str:
        """Tells this network, with these weights, from all others."""
        return fingerprint(self.model, self.conf)

    def extract(
        self,
        mixture: Wave,
        enroll: Enrolment | Sequence[Enrolment],
        sample_rate: int,
        enroll_sample_rate: int | None = None,
        settings: Inference | None = None,
        progress: bool = False,
        average: Literal["network", "estimates"] = "network",
    ) -> np.ndarray:
        """The wanted talker's voice alone.

        Args:
            mixture: (T,) or (C, T); channels are extracted one by one.
            enroll: one recording of the wanted talker alone, (T_e,) or (C, T_e), or a profile, or a sequence.
            sample_rate: of the mixture, any; the estimate comes back at the same.
            enroll_sample_rate: of the enrolments, if it differs.
            settings: chunk length, overlap and batch size; the conf's own by default.
            progress: show a bar when the mixture is cut into chunks.
            average: how several enrolments count. `network`: in the network's own way, by attention to all of them or
                the mean of what it makes of each. `estimates`: each is extracted with alone, which takes as many times
                as long, and the mean of the estimates is taken.

        Returns:
            float32, the shape of `mixture`.

        Raises:
            ValueError: something is empty, silent, not finite or of a wrong shape.
        """
        wave = as_array(mixture, "mixture")
        settings = settings or self.conf.inference
        enroll_rate = enroll_sample_rate or sample_rate
        each = as_list(enroll) if average == "estimates" else [enroll]
        conditions = [self.encode(one, enroll_rate) for one in each]
        audio.refuse_silence(wave, "mixture")
        own_rate = audio.resample(np.atleast_2d(wave), sample_rate, self.sample_rate)
        channels = torch.from_numpy(_to_length(own_rate, max(1, own_rate.shape[1])))
        channels = channels.to(self.device)
        estimate = torch.zeros_like(channels)
        for condition in conditions:
            estimate += infer(self.model, channels, condition, settings, self.sample_rate, progress)[0].float()
        estimate /= len(conditions)
        back = audio.resample(estimate.cpu().numpy(), self.sample_rate, sample_rate)
        return _to_length(back, wave.shape[-1]).reshape(wave.shape)

    def encode(self, enroll: Enrolment | Sequence[Enrolment], sample_rate: int) -> dict[str, Tensor]:
        """One or several enrolments to a condition of one item; a profile has it already.

        Raises:
            ValueError: an enrolment is empty, silent or not finite, a profile is of another model or not alone.
        """
        several = as_list(enroll)
        if any(isinstance(one, Profile) for one in several):
            if len(several) > 1:
                raise ValueError("a profile is complete: alone, or with others only where estimates are averaged")
            self.refuse_foreign(several[0])
            return {key: value.to(self.device) for key, value in several[0].condition.items()}
        return self._encode(self._at_own_rate(several, sample_rate))

    def enroll(self, enroll: Wave | Sequence[Wave], sample_rate: int, files: Sequence[str] = ()) -> Profile:
        """What the model makes of one or several enrolments, to be kept: `extract` takes it instead of them.

        Args:
            enroll, sample_rate: as of `encode`.
            files: what they are called, to be noted; folders are left out.
        """
        waves = self._at_own_rate(as_list(enroll), sample_rate)
        seconds = sum(map(len, waves)) / self.sample_rate
        condition = {key: value.cpu() for key, value in self._encode(waves).items()}
        names = tuple(Path(name).name for name in files)
        return Profile(condition, self.fingerprint, self.conf.model.name, self.sample_rate, seconds, names)

    def enroll_embedding(self, embedding: np.ndarray | Tensor) -> Profile:
        """A talker by an embedding (D,) from elsewhere, for models that were trained with `speaker: {kind: given}`.

        Raises:
            ValueError: the model hears enrolments, or wants embeddings of another size.
        """
        vector = torch.as_tensor(embedding).float()
        wanted = getattr(self.model, "given_dim", 0)
        if not wanted:
            raise ValueError("the model hears enrolments and takes no embedding; speaker: {kind: given} would")
        if vector.shape != (wanted,) or not vector.isfinite().all():
            raise ValueError(f"embedding: {wanted} finite numbers expected, got the shape {tuple(vector.shape)}")
        return Profile({"embedding": vector[None]}, self.fingerprint, self.conf.model.name, self.sample_rate, 0.0)

    def as_enrolments(self, enrolls: Sequence[Tensor]) -> list[Enrolment]:
        """Those of an item of a data set, as `extract` takes them: waves, or embeddings (D,) whose mean is meant."""
        if not getattr(self.model, "given_dim", 0):
            return list(enrolls)
        return [self.enroll_embedding(torch.stack(list(enrolls)).mean(0))]

    def refuse_foreign(self, profile: Profile, name: str = "profile") -> None:
        """ValueError if another model made the profile, or if no model can have made it."""
        if profile.model != self.fingerprint:
            theirs = f"{profile.network} at {profile.sample_rate} Hz, {profile.model[:12]}"
            own = f"{self.conf.model.name} at {self.sample_rate} Hz, {self.fingerprint[:12]}"
            again = " ".join(profile.files) or "its recordings"
            raise ValueError(f"{name}: of another model ({theirs}; here {own}); tse enroll {again} again with this one")
        if getattr(self.model, "given_dim", 0):
            self.enroll_embedding(profile.condition.get("embedding", torch.zeros(1, 0))[0])
            return
        short, long = (self._encode([torch.linspace(-0.1, 0.1, self.sample_rate // part)]) for part in (4, 2))
        refuse_unfit(profile.condition, short, long, name)

    @torch.no_grad()
    def _encode(self, waves: list[Tensor]) -> dict[str, Tensor]:
        """Enrolments (T_e,) at the model's rate to a condition."""
        lengths = torch.tensor([[len(wave) for wave in waves]])
        padded = nn.utils.rnn.pad_sequence(waves, batch_first=True)[None]  # (1, E, T_e)
        return self.model.encode(padded.to(self.device), lengths)  # type: ignore[operator]

    def _at_own_rate(self, several: Sequence[Wave], sample_rate: int) -> list[Tensor]:
        """Enrolments to one channel (T_e,) at the model's rate, after a look at each."""
        waves = []
        for number, one in enumerate(several, 1):
            name = "enrolment" if len(several) == 1 else f"enrolment {number}"
            wave = as_array(one, name)
            wave = wave.mean(0) if wave.ndim > 1 else wave
            audio.refuse_silence(wave, name)
            waves.append(torch.from_numpy(audio.resample(wave, sample_rate, self.sample_rate)))
        return waves

    def presence(self, mixture: Wave, estimate: Wave, sample_rate: int) -> np.ndarray:
        """The probability, second by second, that the wanted talker speaks: see `tse_lib.metrics.detection`.

        Args:
            mixture: (T,) or (C, T), and its `estimate` of the same shape.

        Returns:
            (L,) float64, 0 where the mixture is silent.

        Raises:
            ValueError: the model has not been calibrated.
        """
        before, after = as_array(mixture, "mixture"), as_array(estimate, "estimate")
        if before.shape != after.shape:
            raise ValueError(f"estimate: shape {after.shape}, the mixture has {before.shape}")
        before, after = (audio.resample(wave, sample_rate, self.sample_rate) for wave in (before, after))
        return detection.probabilities(before, after, self.sample_rate, self.calibration)

    @property
    def calibration(self) -> Calibration:
        """How the talker's presence is judged.

        Raises:
            ValueError: the model has not been calibrated, or other weights were.
        """
        found = self.conf.calibration
        if found is None or found.model != self.fingerprint:
            why = "not calibrated" if found is None else "calibrated with other weights than these"
            raise ValueError(
                f"the model was {why}, so its outputs tell nothing about presence; tse calibrate --model MODEL --data "
                "data/dev does it"
            )
        return found


def as_list(enroll: Enrolment | Sequence[Enrolment]) -> list[Any]:
    several = [enroll] if isinstance(enroll, (np.ndarray, Tensor, Profile)) else list(enroll)
    if not several:
        raise ValueError("no enrolment was given")
    return several


def as_array(wave: np.ndarray | Tensor, name: str) -> np.ndarray:
    array = np.asarray(wave.cpu() if isinstance(wave, Tensor) else wave)
    if array.dtype.kind not in "f":
        raise ValueError(f"{name}: floating point samples in [-1, 1] expected, got {array.dtype}")
    if array.ndim not in (1, 2):
        raise ValueError(f"{name}: (samples,) or (channels, samples) expected, got {array.shape}")
    if array.ndim == 2 and array.shape[0] > array.shape[1]:
        raise ValueError(f"{name}: {array.shape} looks transposed; (channels, samples) expected")
    if array.shape[-1] == 0:
        raise ValueError(f"{name}: empty")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: holds NaN or infinite samples")
    return array.astype(np.float32, copy=False)


def _to_length(wave: np.ndarray, num_samples: int) -> np.ndarray:
    """Resampling there and back may be a sample off."""
    wave = wave[..., :num_samples]
    return np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(0, num_samples - wave.shape[-1])])
