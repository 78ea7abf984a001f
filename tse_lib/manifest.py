"""Data sets and mixtures as text: Kaldi's tables in `data/<set>/`, one `Mixture` a line in `mixtures.jsonl`."""

import dataclasses
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tse_lib.files import replace_file, temporary_for

ACTIVITY_BLOCK_S = 0.1  # one character of utt2activity


# --------------------------------------------------------------------------------------------------------- tables


def read_table(path: str | Path) -> dict[str, str]:
    """`<key> <rest of the line>` a line. ValueError for a duplicate key, a key without a value, or what is no UTF-8."""
    table: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                key, _, value = line.rstrip("\n").partition(" ")
                if not key or not value:
                    raise ValueError(f"{path}:{number}: '<key> <value>' expected, got {line.rstrip()!r}")
                if key in table:
                    raise ValueError(f"{path}:{number}: duplicate id '{key}'")
                table[key] = value
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason}); convert it") from None
    return table


def write_table(path: str | Path, table: dict[str, Any]) -> None:
    """Write sorted bytewise by key, as Kaldi's tools expect."""
    with replace_file(path) as file:
        for key in sorted(table, key=str.encode):
            file.write(f"{key} {table[key]}\n")


# --------------------------------------------------------------------------------------------------------- data sets


@dataclass(frozen=True)
class Utterance:
    """A stretch of one audio file; `start` and `num_samples` at the file's own `sample_rate`.

    `spk_id` is empty for noise and room responses; `activity` has one character (`1` speech, `0` pause) per 100 ms
    and is empty where it was not measured. `group` tells of noise and room responses what must not be in two sets: the
    place where a noise was recorded, the room of a response; empty: every file is its own.
    """

    utt_id: str
    path: str
    sample_rate: int
    num_samples: int
    start: int = 0
    spk_id: str = ""
    activity: str = ""
    group: str = ""

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate


def make_id(*parts: str) -> str:
    """An id without whitespace: Kaldi's tables split at the first blank."""
    return "-".join("_".join(part.split()) for part in parts)


def write_data_dir(folder: str | Path, utterances: Iterable[Utterance], genders: dict[str, str] | None = None) -> None:
    """Write the tables of a data set, `wav.scp` last: while it is missing, the set is not there.

    Several utterances of one file (or a part of one) make a `segments` table, and `wav.scp` is keyed by recording.
    """
    folder = Path(folder)
    utts = list(utterances)
    counts: dict[str, int] = {}
    for utt in utts:
        counts[utt.utt_id] = counts.get(utt.utt_id, 0) + 1
    duplicates = sorted(key for key, count in counts.items() if count > 1)
    if duplicates:
        raise ValueError(f"{folder}: duplicate utterance ids: {', '.join(duplicates[:5])}")
    if not utts:
        raise ValueError(f"{folder}: no utterances for this set; check the corpus and its split")
    (folder / "wav.scp").unlink(missing_ok=True)
    whole = all(utt.start == 0 for utt in utts) and len({utt.path for utt in utts}) == len(utts)
    for name in ("segments", "utt2activity", "utt2spk", "spk2utt", "spk2gender", "utt2group"):
        (folder / name).unlink(missing_ok=True)
    if whole:
        recordings = {utt.utt_id: utt.path for utt in utts}
    else:
        ids = {path: f"rec{number:06d}" for number, path in enumerate(sorted({utt.path for utt in utts}))}
        recordings = {ids[path]: path for path in ids}
        write_table(
            folder / "segments",
            {
                utt.utt_id: f"{ids[utt.path]} {utt.start / utt.sample_rate:.6f} "
                f"{(utt.start + utt.num_samples) / utt.sample_rate:.6f}"
                for utt in utts
            },
        )
    if any(utt.spk_id for utt in utts):
        write_table(folder / "utt2spk", {utt.utt_id: utt.spk_id for utt in utts})
        spk2utt: dict[str, list[str]] = {}
        for utt in utts:
            spk2utt.setdefault(utt.spk_id, []).append(utt.utt_id)
        write_table(folder / "spk2utt", {spk: " ".join(sorted(ids, key=str.encode)) for spk, ids in spk2utt.items()})
        known = {spk: gender for spk, gender in (genders or {}).items() if spk in spk2utt}
        if known:
            write_table(folder / "spk2gender", known)
    if any(utt.group for utt in utts):
        write_table(folder / "utt2group", {utt.utt_id: utt.group or utt.utt_id for utt in utts})
    if all(utt.activity for utt in utts):
        write_table(folder / "utt2activity", {utt.utt_id: utt.activity for utt in utts})
    write_table(folder / "utt2num_samples", {utt.utt_id: utt.num_samples for utt in utts})
    write_table(folder / "utt2fs", {utt.utt_id: utt.sample_rate for utt in utts})
    write_table(folder / "wav.scp", recordings)


def read_data_dir(folder: str | Path) -> Sequence[Utterance]:
    """All utterances of a data set, in the order of their ids: of the packed store where the set has one.

    Raises:
        FileNotFoundError: no such set.
        ValueError: tables that do not agree, duplicate ids, a pipe instead of a path, or a store of other tables.
    """
    from tse_lib.store import PackedUtterances, is_packed  # here, because it is made of this module's utterances

    return PackedUtterances(folder) if is_packed(folder) else read_tables(folder)


def read_tables(folder: str | Path) -> list[Utterance]:
    """As `read_data_dir`, with the files that the tables name, whether the set is packed or not."""
    folder = Path(folder)
    if not (folder / "wav.scp").exists():
        raise FileNotFoundError(f"{folder}: no data set here (wav.scp is missing); run the prepare stage")
    paths = read_table(folder / "wav.scp")
    for key, path in paths.items():
        if path.rstrip().endswith("|"):
            raise ValueError(f"{folder}/wav.scp: '{key}' is a shell pipe; pipes are not run, write the audio to a file")

    def optional(name: str) -> dict[str, str]:
        return read_table(folder / name) if (folder / name).exists() else {}

    segments, utt2spk, activity = optional("segments"), optional("utt2spk"), optional("utt2activity")
    groups = optional("utt2group")
    lengths, rates = read_table(folder / "utt2num_samples"), read_table(folder / "utt2fs")
    keys = sorted(segments or paths, key=str.encode)
    for name, table in (
        ("utt2spk", utt2spk),
        ("utt2activity", activity),
        ("utt2group", groups),
        ("utt2num_samples", lengths),
        ("utt2fs", rates),
    ):
        if table and set(table) != set(keys):
            odd = sorted(set(table) ^ set(keys))[:3]
            raise ValueError(f"{folder}/{name}: its ids differ from the set's utterances: {', '.join(odd)}…")
    utterances = []
    for key in keys:
        rate, length = _count(folder / "utt2fs", key, rates), _count(folder / "utt2num_samples", key, lengths)
        start, path = 0, paths.get(key, "")
        if segments:
            try:
                recording, begin, _ = segments[key].split()
                start = round(float(begin) * rate)
            except (ValueError, OverflowError):  # the latter of `inf`
                raise ValueError(
                    f"{folder}/segments: '{key}': '<recording> <start> <end>' expected, got '{segments[key]}'"
                ) from None
            if recording not in paths:
                raise ValueError(f"{folder}/segments: '{key}' names recording '{recording}', not in wav.scp")
            path = paths[recording]
        speaker, blocks, group = utt2spk.get(key, ""), activity.get(key, ""), groups.get(key, "")
        utterances.append(Utterance(key, path, rate, length, start, speaker, blocks, group))
    return utterances


def _count(path: Path, key: str, table: dict[str, str]) -> int:
    text = table.get(key, "")
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{path}: '{key}': a positive integer expected, got {text!r}")
    return int(text)


def by_speaker(utterances: Sequence[Utterance]) -> Mapping[str, Sequence[int]]:
    """The places of each speaker's utterances in `utterances`; speakers in bytewise order."""
    from tse_lib.store import PackedUtterances

    if isinstance(utterances, PackedUtterances):
        return utterances.by_speaker
    places: dict[str, list[int]] = {}
    for place, utt in enumerate(utterances):
        places.setdefault(utt.spk_id, []).append(place)
    return {spk: places[spk] for spk in sorted(places, key=str.encode)}


def read_genders(folder: str | Path) -> dict[str, str]:
    """`spk2gender` of a data set, empty when it has none."""
    path = Path(folder) / "spk2gender"
    return read_table(path) if path.exists() else {}


EMBEDDINGS = "utt2embedding.npz"


def write_embeddings(folder: str | Path, embeddings: Mapping[str, np.ndarray]) -> Path:
    """`utt2embedding.npz` of a data set: the arrays `utt_ids` (N,) and `embeddings` (N, E), float32."""
    path, names = Path(folder) / EMBEDDINGS, sorted(embeddings, key=str.encode)
    vectors = np.stack([embeddings[name] for name in names]).astype(np.float32)
    with temporary_for(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, utt_ids=np.array(names, np.str_), embeddings=vectors)
    return path


def read_embeddings(folder: str | Path, dim: int) -> dict[str, np.ndarray]:
    """What `write_embeddings` wrote, or other software: (E,) float32 by utterance. Nothing in it is executed.

    Raises:
        FileNotFoundError: the set has none.
        ValueError: damaged, or not `dim` finite numbers for each of different utterances.
    """
    path = Path(folder) / EMBEDDINGS
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there; tse embed makes it, and docs/conditioning.md says what is in it")
    try:
        with np.load(path, allow_pickle=False) as file:
            names, vectors = file["utt_ids"], file["embeddings"]
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: the arrays utt_ids and embeddings cannot be read ({error})") from None
    if names.dtype.kind != "U" or names.ndim != 1 or vectors.dtype.kind != "f" or len(vectors) != len(names):
        raise ValueError(f"{path}: utt_ids {names.dtype} {names.shape}, embeddings {vectors.dtype} {vectors.shape}; "
                         "(N,) text and (N, E) floating point wanted")  # fmt: skip
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ValueError(f"{path}: embeddings of shape {vectors.shape}, the model wants (N, {dim})")
    if len(set(names.tolist())) < len(names) or not np.isfinite(vectors).all():
        raise ValueError(f"{path}: an utterance is there twice, or a number is not finite")
    return dict(zip(names.tolist(), vectors.astype(np.float32), strict=True))


# ---------------------------------------------------------------------------------------------------- layered mixtures


@dataclass(frozen=True)
class LayeredMix:
    """A mixture that a corpus brings ready-made, and the layers that it is the sum of: files of one rate and length.

    Attributes:
        mix: its file.
        layers: the files of speaker1, speaker2, scene and event, and where it was made indoors of reverb1, reverb2 and
            reverb_event, what the room adds to the dry layer.
        talkers: who speaks in speaker1 and speaker2, as far as that is known.
        place: the class of the scene.
    """

    mix_id: str
    sample_rate: int
    num_samples: int
    mix: str
    layers: dict[str, str]
    talkers: tuple[str, str]
    place: str = ""

    @property
    def indoor(self) -> bool:
        return "reverb1" in self.layers

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate


def write_layered(folder: str | Path, mixes: Iterable[LayeredMix]) -> None:
    """`layers.jsonl` of a data set, one ready-made mixture a line."""
    with replace_file(Path(folder) / "layers.jsonl") as file:
        for mix in mixes:
            file.write(json.dumps(dataclasses.asdict(mix), ensure_ascii=False) + "\n")


def read_layered(folder: str | Path) -> list[LayeredMix]:
    """
    Raises:
        FileNotFoundError: no such set.
        ValueError: a line that is no layered mixture, a duplicate `mix_id`, or several lengths or sample rates.
    """
    path = Path(folder) / "layers.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no layered mixtures here; run the prepare stage")
    mixes: dict[str, LayeredMix] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                fields = json.loads(line)
                mix = LayeredMix(**{**fields, "talkers": tuple(fields["talkers"])})
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}:{number}: not a layered mixture ({error})") from None
            if mixes.setdefault(mix.mix_id, mix) is not mix:
                raise ValueError(f"{path}:{number}: duplicate mix_id '{mix.mix_id}'")
    kinds = sorted({(mix.sample_rate, mix.num_samples) for mix in mixes.values()})
    if len(kinds) != 1:
        raise ValueError(f"{path}: mixtures of one rate and length expected, got (rate, samples) {kinds[:3]}")
    return list(mixes.values())


# ------------------------------------------------------------------------------------------------------------- stems


@dataclass(frozen=True)
class OneShot:
    """A recording of one hit, from its beginning on; `velocity_rank` counts from 1, the softest of its instrument."""

    path: str
    stem: str
    instrument: str
    velocity_rank: int
    sample_rate: int
    num_samples: int
    num_channels: int
    kit: str = ""


@dataclass(frozen=True)
class Performance:
    """What a drummer played: `hits` are (seconds, MIDI note, velocity 1 to 127) in the order of their times."""

    perf_id: str
    path: str
    seconds: float
    hits: tuple[tuple[float, int, int], ...]


@dataclass(frozen=True)
class Track:
    """A recording with its stems: files of one rate and length that add up to each stem.

    `activity` has of each stem one character per 100 ms, as `utt2activity`.
    """

    track_id: str
    sample_rate: int
    num_samples: int
    stems: dict[str, tuple[str, ...]]
    activity: dict[str, str]

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate


@dataclass(frozen=True)
class StemSet:
    """A data set that mixtures of stems are drawn from: hits to be put together as they were played, or tracks."""

    oneshots: tuple[OneShot, ...] = ()
    performances: tuple[Performance, ...] = ()
    tracks: tuple[Track, ...] = ()


STEM_TABLES: dict[str, type] = {"oneshots": OneShot, "performances": Performance, "tracks": Track}


def write_stems(folder: str | Path, stems: StemSet) -> None:
    """`oneshots.jsonl` and `performances.jsonl`, or `tracks.jsonl`, of a data set; what it has not is removed."""
    for name in STEM_TABLES:
        path, parts = Path(folder) / f"{name}.jsonl", getattr(stems, name)
        if not parts:
            path.unlink(missing_ok=True)
            continue
        with replace_file(path) as file:
            for part in parts:
                file.write(json.dumps(dataclasses.asdict(part), ensure_ascii=False) + "\n")


def read_stems(folder: str | Path) -> StemSet:
    """
    Raises:
        FileNotFoundError: no such set.
        ValueError: a line that is none of its table, or an id that is there twice.
    """
    folder = Path(folder)
    parts = {name: _read_stem_table(folder / f"{name}.jsonl", kind) for name, kind in STEM_TABLES.items()}
    if not (parts["oneshots"] and parts["performances"]) and not parts["tracks"]:
        raise FileNotFoundError(
            f"{folder}: no stems here (oneshots.jsonl with performances.jsonl, or tracks.jsonl); run the prepare stage"
        )
    return StemSet(**parts)


def _read_stem_table(path: Path, kind: type) -> tuple[Any, ...]:
    if not path.exists():
        return ()
    found: dict[str, Any] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                fields = json.loads(line)
                if "hits" in fields:
                    fields["hits"] = tuple(
                        (float(time), int(note), int(velocity)) for time, note, velocity in fields["hits"]
                    )
                if "stems" in fields:
                    fields["stems"] = {name: tuple(files) for name, files in fields["stems"].items()}
                part = kind(**fields)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}:{number}: not a line of {path.name} ({error})") from None
            key = getattr(part, "perf_id", "") or getattr(part, "track_id", "") or part.path
            if found.setdefault(key, part) is not part:
                raise ValueError(f"{path}:{number}: '{key}' is there twice")
    return tuple(found.values())


# ---------------------------------------------------------------------------------------------------------- mixtures


@dataclass(frozen=True)
class Response:
    """A room response: a stretch of an audio file at the file's own sample rate; `room` is its group."""

    path: str
    start: int
    num_samples: int
    utt_id: str = ""
    room: str = ""


@dataclass(frozen=True)
class Source:
    """A crop of an audio file, at the file's own sample rate, to be resampled by `speed` on the way.

    Attributes:
        path, start, num_samples: the crop (samples at the file's rate).
        speed: 1.05 is 5 % faster and higher.
        offset: sample of the mixture where it begins. Negative: it begins before the mixture does, so that what was
            said before is still heard in the room.
        fade_s: of a crop's beginning and end inside the mixture.
        rir: the room it is heard in, or None.
        level_db: for an interferer its SIR in dB (target's image over this image), for noise the SNR in dB
            (all speech, or the enrolment, over noise); unused for the target and for enrolments.
        noise: of an enrolment alone: what is added to it.
        eq_db: of an enrolment: gains of a random equaliser at `render.EQ_HZ`.
        plus: of a target of a ready-made mixture: what is added to it, sample by sample.
    """

    path: str
    start: int
    num_samples: int
    utt_id: str = ""
    spk_id: str = ""
    gender: str = ""
    speed: float = 1.0
    offset: int = 0
    fade_s: float = 0.0
    rir: Response | None = None
    level_db: float = 0.0
    group: str = ""
    noise: "Source | None" = None
    eq_db: tuple[float, ...] = ()
    plus: "tuple[Source, ...]" = ()


@dataclass(frozen=True)
class ReadyMade:
    """A mixture that is not mixed but read: a corpus's own, less some of its layers.

    Attributes:
        mix: the corpus's mixture.
        minus: the layers that are subtracted from it.
        variant: what is kept, as `config.VARIANTS` names it; empty: the corpus has no layers.
    """

    mix: Source
    minus: tuple[Source, ...]
    variant: str


@dataclass(frozen=True)
class Clip:
    """A part of an audio file in a stem, at the file's own sample rate, to be resampled by `speed` on the way.

    Attributes:
        path, start, num_samples: the part (samples at the file's rate).
        at: sample of the mixture where it begins; negative: it began before, and rings into the mixture.
        gain_db: on top of the level in the file.
        speed: 1.05 is 5 % shorter and higher.
        pan: of a mono file in a stereo mixture, -1 left to 1 right.
        fade_s: of its end, where it is damped (a hi-hat that is closed).
    """

    path: str
    start: int
    num_samples: int
    at: int = 0
    gain_db: float = 0.0
    speed: float = 1.0
    pan: float = 0.0
    fade_s: float = 0.0


@dataclass(frozen=True)
class Stem:
    """One named source of a mixture: the sum of its clips, silence if there are none.

    Attributes:
        name: kick, snare….
        origin: the performance or the track that it comes from.
        gain_db: of the whole stem.
        swap_channels, invert: left is right, and the polarity is turned around.
    """

    name: str
    origin: str
    clips: tuple[Clip, ...] = ()
    gain_db: float = 0.0
    swap_channels: bool = False
    invert: bool = False


@dataclass(frozen=True)
class Mask:
    """A stretch of the mixture's spectrogram that is zeroed; `axis` is "time" (seconds) or "freq" (Hz)."""

    axis: str
    begin: float
    end: float


@dataclass(frozen=True)
class Mixture:
    """What is mixed, decided as text before any audio is touched.

    Attributes:
        talkers: who speaks; `talkers[0]` is the target where it is present, else just the first talker.
        target_present: false: the enrolments belong to somebody who does not speak here.
        enrolls: one or more utterances of the wanted talker, never one that is mixed; none: all talkers are wanted.
        level_dbfs: RMS of the mixture.
        target: what of the target's image is wanted: "dry", "early" (until `early_s` after the direct sound) or
            "reverberant".
        band_limit_hz: everything is limited to this band; 0: it is not.
        clip_db: the mixture's peaks would rise this far above where they are cut; 0: they are not cut.
        masks: what is missing of the mixture's spectrogram.
        ready: where it is a corpus's own, which then has its level; the talkers are the targets, and dry.
        stems: what is wanted by its name; then there are no talkers, and the mixture is the sum of these.
        num_channels: of the mixture and of its stems.
        peak_dbfs: of a mixture of stems, the level of its loudest sample; 0: as the stems add up.
    """

    mix_id: str
    sample_rate: int
    num_samples: int
    target_present: bool
    talkers: tuple[Source, ...]
    enrolls: tuple[Source, ...]
    noise: Source | None = None
    level_dbfs: float = -25.0
    target: str = "reverberant"
    early_s: float = 0.0
    band_limit_hz: float = 0.0
    clip_db: float = 0.0
    masks: tuple[Mask, ...] = ()
    ready: ReadyMade | None = None
    stems: tuple[Stem, ...] = ()
    num_channels: int = 1
    peak_dbfs: float = 0.0

    @property
    def source_names(self) -> tuple[str, ...]:
        """Of a separation what its sources are called: the names of the stems, or source1, source2…"""
        if self.stems:
            return tuple(stem.name for stem in self.stems)
        return tuple(f"source{number}" for number in range(1, len(self.talkers) + 1))

    @property
    def interferers(self) -> tuple[Source, ...]:
        return self.talkers[1:] if self.target_present else self.talkers

    @property
    def target_partial(self) -> bool:
        """The one wanted talker begins or ends inside the mixture, after a pause or before one."""
        return any(source.offset > 0 or source.fade_s > 0 for source in self.targets) and bool(self.enrolls)

    @property
    def targets(self) -> tuple[Source, ...]:
        """The talkers that are wanted: one or nobody of an extraction, all of a separation."""
        if not self.enrolls:
            return self.talkers
        return self.talkers[:1] if self.target_present else ()

    @property
    def target_spk(self) -> str:
        """Of an extraction the one wanted talker; of a separation the first."""
        return (self.enrolls or self.talkers)[0].spk_id if self.enrolls or self.talkers else ""

    def to_json(self) -> str:
        return json.dumps(_said(self), ensure_ascii=False)

    @staticmethod
    def from_json(line: str) -> "Mixture":
        fields = json.loads(line)
        fields["talkers"] = tuple(_source(source) for source in fields["talkers"])
        fields["enrolls"] = tuple(_source(source) for source in fields["enrolls"])
        fields["noise"] = _source(fields["noise"]) if fields.get("noise") else None
        fields["masks"] = tuple(Mask(**mask) for mask in fields.get("masks", ()))
        fields["ready"] = _ready(fields["ready"]) if fields.get("ready") else None
        fields["stems"] = tuple(_stem(stem) for stem in fields.get("stems", ()))
        return Mixture(**fields)


def _said(value: Any) -> Any:
    """A dataclass as a dict without what is as always: a later field changes no text of today."""
    if isinstance(value, tuple):
        return [_said(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    fields = {field.name: (getattr(value, field.name), field.default) for field in dataclasses.fields(value)}
    return {name: _said(now) for name, (now, default) in fields.items() if now != default}


def _source(fields: dict[str, Any]) -> Source:
    rir, noise = fields.get("rir"), fields.get("noise")
    nested = {"rir": Response(**rir) if rir else None, "noise": _source(noise) if noise else None}
    plus = tuple(_source(source) for source in fields.get("plus", ()))
    return Source(**{**fields, **nested, "eq_db": tuple(fields.get("eq_db", ())), "plus": plus})


def _ready(fields: dict[str, Any]) -> ReadyMade:
    minus = tuple(_source(source) for source in fields["minus"])
    return ReadyMade(_source(fields["mix"]), minus, fields["variant"])


def _stem(fields: dict[str, Any]) -> Stem:
    return Stem(**{**fields, "clips": tuple(Clip(**clip) for clip in fields.get("clips", ()))})


def write_mixtures(path: str | Path, mixtures: Iterable[Mixture]) -> None:
    with replace_file(path) as file:
        for mixture in mixtures:
            file.write(mixture.to_json() + "\n")


def read_mixtures(path: str | Path) -> list[Mixture]:
    """The mixtures of a set in the file's order.

    Raises:
        FileNotFoundError: no such list.
        ValueError: a line that is no mixture, or a duplicate `mix_id`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no mixture list; run the simulate stage")
    mixtures, seen = [], set()
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                mixture = Mixture.from_json(line)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}:{number}: not a mixture ({error})") from None
            if mixture.mix_id in seen:
                raise ValueError(f"{path}:{number}: duplicate mix_id '{mixture.mix_id}'")
            seen.add(mixture.mix_id)
            mixtures.append(mixture)
    if not mixtures:
        raise ValueError(f"{path}: no mixtures in it")
    return mixtures


def audio_path(data_dir: str | Path, kind: str, mix_id: str) -> Path:
    """Where the simulate stage puts rendered audio.

    kind: mixture, noise; of an extraction target, interferer1…, enroll1…; of a separation source1… or the stems' names.
    """
    return Path(data_dir) / "mixtures" / kind / f"{mix_id}.flac"


def job_share(items: list[Any], job: str) -> list[Any]:
    """The part of `items` that job "2/8" does: every eighth, from the second."""
    try:
        index, count = (int(number) for number in job.split("/"))
    except ValueError:
        raise ValueError(f"--job {job}: '<job>/<jobs>' expected, as in 2/8") from None
    if not 1 <= index <= count:
        raise ValueError(f"--job {job}: the first number must lie in 1 to {count}")
    return items[index - 1 :: count]
