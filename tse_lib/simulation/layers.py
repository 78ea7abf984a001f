"""Variants of ready-made mixtures, as text: what of a corpus's layers is taken off its mixture again.

The names say what is kept beside speech, S the scene, E the event, R the reverberation of what is kept; C is clean. A
mixture indoors has SER, SR, ER, R and C, one outdoors SE, S, E and C. The layers are subtracted from the mixture
sample by sample ("mix modification by inverted phase cancellation", MM-IPC, of PolSESS), so a variant costs no mixing,
and only what is subtracted is read. Targets are the dry speakers: what keeps R is there to be dereverberated, too.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tse_lib.config import VARIANTS, Layers, Sets
from tse_lib.manifest import LayeredMix, Mixture, ReadyMade, Source, read_layered


def variants_of(mix: LayeredMix, wanted: Iterable[str]) -> list[str]:
    """Those of the wanted variants that a mixture can have."""
    own = VARIANTS["indoor" if mix.indoor else "outdoor"]
    return [variant for variant in wanted if variant in own]


def left_out(mix: LayeredMix, variant: str, goal: str) -> Iterator[str]:
    """The layers that are subtracted. Of a second speaker who is not wanted (ES) the room is taken out, too."""
    if goal == "ES":
        yield "speaker2"
    if "S" not in variant:
        yield "scene"
    if "E" not in variant:
        yield "event"
    if mix.indoor:
        if variant == "C":
            yield "reverb1"
        if variant == "C" or goal == "ES":
            yield "reverb2"
        if "E" not in variant:
            yield "reverb_event"


def mixture_of(mix: LayeredMix, variant: str, goal: str) -> Mixture:
    """One variant of a ready-made mixture, to be read by `data.layers.read_ready`."""

    def layer(name: str, speaker: str = "", plus: tuple[Source, ...] = ()) -> Source:
        return Source(mix.layers[name], 0, mix.num_samples, f"{mix.mix_id}/{name}", speaker, plus=plus)

    first, second = mix.talkers
    speakers = {
        "ES": (layer("speaker1", first),),
        "EB": (layer("speaker1", f"{first}+{second}", plus=(layer("speaker2", second),)),),
        "SB": (layer("speaker1", first), layer("speaker2", second)),
    }
    return Mixture(
        mix_id=f"{mix.mix_id}-{variant}",
        sample_rate=mix.sample_rate,
        num_samples=mix.num_samples,
        target_present=True,
        talkers=speakers[goal],
        enrolls=(),
        target="dry",
        ready=ReadyMade(
            mix=Source(mix.mix, 0, mix.num_samples, mix.mix_id),
            minus=tuple(layer(name) for name in left_out(mix, variant, goal)),
            variant=variant,
        ),
    )


def layered_set(data: str | Path, name: str, sets: Sets) -> list[Mixture]:
    """One set of `conf/sets.yaml`: of its ready-made mixtures each variant that is wanted and that they can have.

    Raises:
        ValueError: no mixture has one, or they have another rate or length than the set; or clean mixtures of ES or EB.
    """
    one, conf = sets.sets[name], sets.sets[name].simulation
    assert isinstance(conf, Layers)
    if conf.goal != "SB" and "C" in conf.variants:
        raise ValueError(f"{name}: variant C of goal {conf.goal} is its own target, nothing can be improved; remove it")
    mixes = [mix for part in one.speech for mix in read_layered(Path(data) / part)][: one.num_mixtures]
    refuse_other_kind(mixes, conf, sets.sample_rate)
    found = [mixture_of(mix, variant, conf.goal) for mix in mixes for variant in variants_of(mix, conf.variants)]
    if not found:
        raise ValueError(f"{name}: none of {len(mixes)} mixtures has one of the variants {', '.join(conf.variants)}")
    return found


def refuse_other_kind(mixes: Sequence[LayeredMix], conf: Layers, sample_rate: int) -> None:
    """ValueError unless the mixtures have the sample rate and the length of the conf, and there are some."""
    if not mixes:
        raise ValueError("no layered mixtures to draw from")
    mix, wanted = mixes[0], round(conf.segment_s[0] * sample_rate)
    if (mix.sample_rate, mix.num_samples) != (sample_rate, wanted):
        raise ValueError(
            f"{mix.mix}: {mix.num_samples} samples at {mix.sample_rate} Hz; sample_rate {sample_rate} and segment_s "
            f"{conf.segment_s[0]:g} of the conf ask for {wanted} at {sample_rate} Hz"
        )
