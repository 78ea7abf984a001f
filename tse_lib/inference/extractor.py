"""Extract one talker from recordings of any length, sample rate and number of channels, with a trained model."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tse_lib import audio
from tse_lib.config import Deployed, Inference
from tse_lib.inference.chunked import infer


class Extractor:
    """A trained model ready for use.

    Example:
        extractor = tse_lib.load("exp/tse/best.pt")
        alice = extractor.extract(mixture, alice_alone, sample_rate)
    """

    def __init__(self, model: nn.Module, conf: Deployed, device: torch.device | str = "cpu"):
        self.model, self.conf, self.device = model.to(device).eval(), conf, torch.device(device)

    @property
    def sample_rate(self) -> int:
        return self.conf.sample_rate

    def extract(
        self,
        mixture: np.ndarray | Tensor,
        enroll: np.ndarray | Tensor | Sequence[np.ndarray | Tensor],
        sample_rate: int,
        enroll_sample_rate: int | None = None,
        settings: Inference | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """The wanted talker's voice alone.

        Args:
            mixture: (T,) or (C, T); channels are extracted one by one.
            enroll: one recording of the wanted talker alone, (T_e,) or (C, T_e), or a sequence of several.
            sample_rate: of the mixture, any; the estimate comes back at the same.
            enroll_sample_rate: of the enrolments, if it differs.
            settings: chunk length, overlap and batch size; the conf's own by default.
            progress: show a bar when the mixture is cut into chunks.

        Returns:
            float32, the shape of `mixture`.

        Raises:
            ValueError: something is empty, silent, not finite or of a wrong shape.
        """
        wave = as_array(mixture, "mixture")
        settings = settings or self.conf.inference
        condition = self.encode(enroll, enroll_sample_rate or sample_rate)
        audio.refuse_silence(wave, "mixture")
        own_rate = audio.resample(np.atleast_2d(wave), sample_rate, self.sample_rate)
        channels = torch.from_numpy(_to_length(own_rate, max(1, own_rate.shape[1])))
        channels = channels.to(self.device)
        estimate = infer(self.model, channels, condition, settings, self.sample_rate, progress)[0]
        back = audio.resample(estimate.float().cpu().numpy(), self.sample_rate, sample_rate)
        return _to_length(back, wave.shape[-1]).reshape(wave.shape)

    @torch.no_grad()
    def encode(
        self, enroll: np.ndarray | Tensor | Sequence[np.ndarray | Tensor], sample_rate: int
    ) -> dict[str, Tensor]:
        """One or several enrolments to a condition of one item."""
        several = [enroll] if isinstance(enroll, (np.ndarray, Tensor)) else list(enroll)
        if not several:
            raise ValueError("no enrolment was given")
        waves = []
        for number, one in enumerate(several, 1):
            name = "enrolment" if len(several) == 1 else f"enrolment {number}"
            wave = as_array(one, name)
            wave = wave.mean(0) if wave.ndim > 1 else wave
            audio.refuse_silence(wave, name)
            waves.append(torch.from_numpy(audio.resample(wave, sample_rate, self.sample_rate)))
        lengths = torch.tensor([[len(wave) for wave in waves]])
        padded = nn.utils.rnn.pad_sequence(waves, batch_first=True)[None]  # (1, E, T_e)
        return self.model.encode(padded.to(self.device), lengths)  # type: ignore[operator]


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
