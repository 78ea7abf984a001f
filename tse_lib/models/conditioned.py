"""Any separator made an extractor: its front end, blocks and back end, told in between whom to extract.

    mixture (B,C,T) -front-> features (B*C,D,L[,F]) -[inject, block] x N-> -back-> (B,1,C,T)
    enroll (B,E,T_e) -encode-> condition: an embedding, frames of the same front end, their magnitudes, a waveform

`conditioning` names the kind, or a list of kinds that are used together:

    film, adaln, concat, multiply   by an embedding, before each of the blocks `at`; `speaker` says where it comes from
    usef                            frames ask the enrolment's frames, before each of the blocks `at`
    tf_map                          the enrolment's spectra as the mixture's frames see them, added to the features
    lext                            the enrolment is put before the mixture

docs/conditioning.md has the table of networks and kinds, with costs. Blocks are counted from 0. Dual-path networks cut
frames into chunks before their first block, so frames can be asked for at 0 only; SepMamba's places are its steps down.

Several enrolments: usef and tf_map attend to the frames of all, embeddings are averaged over those that are there, lext
joins them. Each is encoded by its own length, so padding changes nothing.
"""

import difflib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tse_lib.config import check_params
from tse_lib.models.conv_tasnet import ConvTasNet
from tse_lib.models.dprnn import DPRNN
from tse_lib.models.dptnet import DPTNet
from tse_lib.models.hifi_tse import HiFiTSE
from tse_lib.models.mossformer2 import MossFormer2
from tse_lib.models.sepformer import SepFormer
from tse_lib.models.sepmamba import SepMamba
from tse_lib.models.spmamba import SPMamba
from tse_lib.models.tf_gridnet import TFGridNet
from tse_lib.nn.conditioning import OF_VECTORS, FrameAttention, Prefix, SpectralMap, drop_condition
from tse_lib.nn.enrolment import at_scales, check_scales, each_at_its_length, frames_of_each, mean_of_present, sizes_of
from tse_lib.nn.speaker import SPEAKER_ENCODERS

BACKBONES: dict[str, Any] = {
    "conv_tasnet": ConvTasNet,
    "dprnn": DPRNN,
    "dptnet": DPTNet,
    "sepformer": SepFormer,
    "mossformer2": MossFormer2,
    "sepmamba": SepMamba,
    "spmamba": SPMamba,
    "tf_gridnet": TFGridNet,
    "hifi_tse": HiFiTSE,
}
NO_SPECTRUM = {  # that a spectral map could be added to
    "sepmamba": "it has no spectrum",
    "hifi_tse": "its features are of bands, not of bins",
}
IN_CHUNKS = ("dprnn", "dptnet", "sepformer")  # from their second block on
KINDS: dict[str, Callable[..., nn.Module]] = {
    **OF_VECTORS,
    "usef": FrameAttention,
    "tf_map": SpectralMap,
    "lext": Prefix,
}
SPEAKERS = ("none", "given", *SPEAKER_ENCODERS)


class Conditioned(nn.Module):
    """The extractor (see the head of this file).

    Args:
        sample_rate: of mixtures and enrolments.
        backbone, backbone_params: the separator and its options, without `num_sources`: it has one output.
        conditioning: {kind: …, at: [0], …}, or a list of them; `at` are the blocks, other options those of the kind in
            tse_lib/nn/conditioning.py.
        speaker: {kind: …, …}: resnet or ecapa with their options (tse_lib/nn/speaker.py); given, with `embedding_dim`:
            the condition is an embedding from elsewhere; none.
        scales: the enrolment at several resolutions in time: means of so many frames, one beside the other, are what
            usef and tf_map attend to and what the statistics of a speaker encoder are of.
        condition_dropout: probability (training) that an item's whole condition is zeroed.
    """

    def __init__(
        self,
        sample_rate: int,
        backbone: str,
        conditioning: dict[str, Any] | list[dict[str, Any]],
        backbone_params: dict[str, Any] | None = None,
        speaker: dict[str, Any] | None = None,
        scales: list[int] | tuple[int, ...] = (1,),
        condition_dropout: float = 0.0,
    ):
        super().__init__()
        self.has_idle_parameters = getattr(BACKBONES.get(backbone), "has_idle_parameters", False)
        check_scales("scales", scales)
        choices = [conditioning] if isinstance(conditioning, dict) else conditioning
        kinds = [chosen("conditioning", choice, KINDS) for choice in choices]
        if not kinds or len(set(kinds)) < len(kinds):
            raise ValueError(f"conditioning: kinds, each once, expected, got {kinds}")
        speaker = speaker or {"kind": "none"}
        self.speaker_kind = chosen("speaker", speaker, SPEAKERS)
        refuse_misfits(backbone, kinds, self.speaker_kind)
        self.kinds, self.scales, self.condition_dropout = kinds, tuple(scales), condition_dropout

        self.backbone = new_backbone(backbone, backbone_params or {}, sample_rate)
        self.speaker: Any = None
        embedding_dim, options = 0, without(speaker, "kind")
        if self.speaker_kind in SPEAKER_ENCODERS:
            encoder = partial(SPEAKER_ENCODERS[self.speaker_kind], sample_rate)
            check_params(encoder, options, f"speaker {self.speaker_kind}")
            self.speaker = encoder(**{"scales": self.scales, **options})
            embedding_dim = self.speaker.embedding_dim
        elif self.speaker_kind == "given":
            check_params(lambda embedding_dim: None, options, "speaker given")
            embedding_dim = options.get("embedding_dim", 0)
            if embedding_dim < 1:
                raise ValueError("speaker given: embedding_dim, how many numbers an embedding has, is missing")
        self.given_dim = embedding_dim if self.speaker_kind == "given" else 0  # 0: enrolments are heard

        self.prefix: Prefix | None = None
        self.paths = nn.ModuleDict()
        dims = self.backbone.feature_dims
        for kind, choice in zip(kinds, choices, strict=True):
            options = without(choice, "kind")
            if kind == "lext":
                check_params(partial(Prefix, sample_rate), options, "conditioning lext")
                self.prefix = Prefix(sample_rate, **options)
                continue
            places, options = checked_places(backbone, kind, choice.get("at", [0]), len(dims)), without(options, "at")
            check_params(partial(KINDS[kind], 1, 1), options, f"conditioning {kind}")
            source_dim = {"usef": dims[0], "tf_map": self._spectrum_dim()}.get(kind, embedding_dim)
            layers = {str(place): KINDS[kind](dims[place], source_dim, **options) for place in places}
            self.paths[kind] = nn.ModuleDict(layers)

    def _spectrum_dim(self) -> int:
        """1 of a grid of frames and bins, else how many learned filters there are."""
        return getattr(getattr(self.backbone, "encoder", None), "out_channels", 1)

    # ------------------------------------------------------------------------------------------------- the contract

    def encode(self, enroll: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Enrolments to a condition: plain tensors that can be kept for a long file or saved as a profile.

        Args:
            enroll: (B, E, T_e), zero-padded; embeddings (B, E, E') where the speaker is `given`.
            lengths: (B, E) samples of each, on the CPU; 0 for an enrolment that is not there. None: all whole.

        Returns:
            What the kinds in use are told: "embedding" (B, E') of a speaker encoder; "frames" (B, L_e, [F,] D) of usef,
            "magnitudes" (B, L_e, K) of tf_map, with "valid" (B, L_e), false for padding, where lengths differ;
            "prefix" (B, P) of lext.

        Raises:
            ValueError: the speaker is `given`, and what came has not the size of an embedding.
        """
        if self.given_dim:
            if enroll.shape[-1] != self.given_dim:
                raise ValueError("speaker given: an embedding is the condition, enrolments are not heard")
            return {"embedding": mean_of_present(enroll.flatten(0, 1), lengths, len(enroll))}
        batch, rows, sizes = len(enroll), enroll.flatten(0, 1), sizes_of(enroll, lengths)
        condition = {}
        if self.speaker is not None:
            vectors = torch.stack(each_at_its_length(self.speaker, rows, sizes))
            condition["embedding"] = mean_of_present(vectors, lengths, batch)
        if "usef" in self.kinds:
            condition["frames"], valid = frames_of_each(self._frames, enroll, lengths)
            condition |= {} if valid is None else {"valid": valid}
        if "tf_map" in self.kinds:
            condition["magnitudes"], valid = frames_of_each(self._magnitudes, enroll, lengths)
            condition |= {} if valid is None else {"valid": valid}
        if self.prefix is not None:
            whole = torch.full(enroll.shape[:2], enroll.shape[-1]) if lengths is None else lengths
            items = zip(enroll, whole.tolist(), strict=True)
            condition["prefix"] = torch.stack([self.prefix.encode(waves, own) for waves, own in items])
        return condition

    def forward(self, mixture: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """mixture (B, C, T), condition of `encode` -> estimate (B, 1, C, T). Channels are extracted one by one."""
        channels, size = mixture.shape[1:]
        if self.training and self.condition_dropout > 0:
            condition = drop_condition(condition, self.condition_dropout)
        if self.prefix is not None:
            mixture = self.prefix(mixture, condition["prefix"])
        if channels > 1:
            condition = {name: value.repeat_interleave(channels, 0) for name, value in condition.items()}
        x, spectrum = self.backbone.front(mixture)
        told: dict[str, tuple[Tensor | None, ...]] = {kind: (condition.get("embedding"),) for kind in OF_VECTORS}
        told["usef"] = condition.get("frames"), condition.get("valid")
        if "tf_map" in self.paths:
            told["tf_map"] = magnitudes(spectrum), condition["magnitudes"], condition.get("valid")

        def inject(x: Tensor, place: int) -> Tensor:
            layers: Any
            for kind, layers in self.paths.items():
                if str(place) in layers:
                    x = layers[str(place)](x, *told[kind])
            return x

        return self.backbone.back(self.backbone.body(x, inject), spectrum, mixture)[..., -size:]

    def _frames(self, waves: Tensor) -> Tensor:
        """(rows, T_e) -> what usef attends to, (rows, L_e, [F,] D)."""
        return at_scales(self.backbone.front(waves[:, None])[0].movedim(1, -1), self.scales)

    def _magnitudes(self, waves: Tensor) -> Tensor:
        """(rows, T_e) -> what tf_map attends to, (rows, L_e, K)."""
        return at_scales(magnitudes(self.backbone.front(waves[:, None])[1]), self.scales)


def magnitudes(spectrum: Tensor) -> Tensor:
    """Real and imaginary parts (B, 2, L, F) -> (B, L, F); what learned filters give, (B, N, L) -> (B, L, N)."""
    return spectrum.norm(dim=1) if spectrum.dim() == 4 else spectrum.abs().mT


# ------------------------------------------------------------------------------------------------- what fits together


def chosen(section: str, choice: Any, known: Iterable[str]) -> str:
    """The kind that a section of the conf names.

    Raises:
        ValueError: none, or one that is not known; the nearest is named.
    """
    if not isinstance(choice, dict) or "kind" not in choice:
        raise ValueError(f"{section}: {{kind: …}} expected, got {choice!r}; known kinds: {', '.join(known)}")
    kind = choice["kind"]
    if kind not in known:
        near = difflib.get_close_matches(str(kind), list(known), 1, 0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"{section}: unknown kind '{kind}'; {hint}")
    return kind


def without(options: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != key}


def refuse_misfits(backbone: str, kinds: list[str], speaker: str) -> None:
    """
    Raises:
        ValueError: kinds without what they need, a speaker that no kind uses, or a backbone that cannot.
    """
    told_vectors = [kind for kind in kinds if kind in OF_VECTORS]
    if told_vectors and speaker == "none":
        raise ValueError(f"conditioning {told_vectors[0]}: wants an embedding; speaker: {{kind: resnet}}, ecapa, given")
    if not told_vectors and speaker != "none":
        raise ValueError(f"speaker {speaker}: no kind of conditioning among {kinds} takes an embedding")
    others = [kind for kind in kinds if kind not in OF_VECTORS]
    if others and speaker == "given":
        raise ValueError(f"conditioning {others[0]}: wants an enrolment, but with speaker given there is none")
    if "tf_map" in kinds and backbone in NO_SPECTRUM:
        raise ValueError(f"conditioning tf_map: not for {backbone}, {NO_SPECTRUM[backbone]}; usef is")


def checked_places(backbone: str, kind: str, places: Any, count: int) -> list[int]:
    """The blocks `at` which a path is injected.

    Raises:
        ValueError: no blocks, or such that the kind cannot be at.
    """
    if not isinstance(places, (list, tuple)) or not places or len(set(places)) < len(places):
        raise ValueError(f"conditioning {kind}: at: numbers of blocks expected, got {places!r}")
    if any(place not in range(count) for place in places):
        raise ValueError(f"conditioning {kind}: at: {list(places)}, but blocks of {backbone} are 0 to {count - 1}")
    if kind == "tf_map" and list(places) != [0]:
        raise ValueError(f"conditioning tf_map: at: {list(places)}, but it is an input: at 0 only")
    if kind == "usef" and backbone in IN_CHUNKS and list(places) != [0]:
        raise ValueError(
            f"conditioning usef: at: {list(places)}, but {backbone} has chunks instead of frames behind 0; "
            f"there {', '.join(OF_VECTORS)} fit"
        )
    return list(places)


def new_backbone(name: str, params: dict[str, Any], sample_rate: int) -> Any:
    """A separator with one output, or HiFi-TSE without what is told of the enrolment inside it.

    Raises:
        ValueError: unknown name or option; the nearest is named.
    """
    chosen("backbone", {"kind": name}, BACKBONES)
    own = {"film": False, "adaln": False, "reinject_at": [], "enroll_scales": [1], "condition_dropout": 0.0}
    fixed = {**own, "sample_rate": sample_rate} if name == "hifi_tse" else {"num_sources": 1}
    for key in params:
        if key in fixed:
            raise ValueError(f"backbone_params: {key} is always {fixed[key]} here")
    check_params(BACKBONES[name], params, f"backbone {name}")
    backbone = BACKBONES[name](**fixed, **params)
    if name == "hifi_tse":
        del backbone.usef
    return backbone
