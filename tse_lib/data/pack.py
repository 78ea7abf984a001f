"""Pack a data set: copy its audio into few 16-bit wav files and write the index (tse_lib/store.py tells the layout).

What is done is a function of the tables and of the index that is there, never of the number of processes. Each shard is
finished by its sidecar, so a killed run goes on after the last of them. A shard that an index names is never written
again: utterances that are new make new shards, those that are gone leave the index only.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from tse_lib import audio, store
from tse_lib.dsp.level import active_samples, rms
from tse_lib.files import replace_file
from tse_lib.manifest import Utterance, read_tables, write_table
from tse_lib.parallel import alone_in, parallel_map
from tse_lib.store import SILENT_DBFS, Index, Shard, Stored, packed_folder

SHARD_BYTES = 2**28
MAX_SAMPLES = 2**30  # of an utterance: half of what the sizes in a wav's header can say
SHOWN = 20  # faults listed by name before the rest is counted
LEFT_OUT = "left_out.txt"


class Plan(NamedTuple):
    """A shard to be written."""

    name: str
    sample_rate: int
    utterances: tuple[Utterance, ...]


class Copied(NamedTuple):
    """An utterance of a shard, as its sidecar has it.

    Attributes:
        source: path, start, num_samples and sample rate in the tables: what the samples were made of.
        start, num_samples: where it lies in the shard.
        num_channels: of the file; several were averaged.
        num_clipped: samples that resampling had driven above full scale.
    """

    utt_id: str
    source: tuple[str, int, int, int]
    start: int
    num_samples: int
    peak_dbfs: float
    active_dbfs: float
    num_channels: int
    num_clipped: int


class Sidecar(NamedTuple):
    """What a wav of the store holds, and which utterances it should hold but could not."""

    sample_rate: int
    num_bytes: int
    sha256: str
    utterances: list[Copied]
    left_out: dict[str, str]


def pack(
    folder: Path,
    nj: int = 1,
    sample_rate: int | None = None,
    skip_bad: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Pack a data set, or bring its store up to date; prints what was done.

    Args:
        nj: processes; changes nothing but the speed.
        sample_rate: resample everything to it; None: as the store has it, at first every utterance's own rate.
        skip_bad: go on without what cannot be stored, and list it in `packed/left_out.txt`.
        shard_bytes: a wav gets no longer, unless one utterance is.

    Raises:
        FileNotFoundError: no data set there.
        ValueError: all files that cannot be stored, or a store of another sample rate.
        OSError: another process packs the same set.
    """
    stamps, tables = store.stamps_of(folder), store.hash_of_tables(folder)  # before they are read
    utterances = read_tables(folder)
    packed = packed_folder(folder)
    packed.mkdir(exist_ok=True)
    with alone_in(packed, f"{packed}: another tse pack writes here; wait for it"):
        for partial_file in packed.glob(".partial-*"):
            partial_file.unlink()
        old = store.open_index(folder) if store.is_packed(folder) else None
        if old and sample_rate not in (None, old.sample_rate):
            was = f"{old.sample_rate} Hz" if old.sample_rate else "each utterance's own sample rate"
            raise ValueError(f"{packed}: was packed at {was}; remove it to pack at --sample_rate {sample_rate}")
        rate = old.sample_rate if old else sample_rate
        kept = _kept_shards(folder, old) if old else {}
        there = {(copy.utt_id, copy.source) for sidecar in kept.values() for copy in sidecar.utterances}
        new = [utt for utt in utterances if (utt.utt_id, _source(utt)) not in there]
        first = max((_number(shard.name) for shard in (old.shards if old else ())), default=-1) + 1
        plans = plan_shards(new, rate, first, shard_bytes)
        results = parallel_map(partial(write_shard, packed=packed, skip_bad=skip_bad), plans, nj, folder.name)
        left_out = {utt_id: fault for faults in results for utt_id, fault in faults.items()}
        _report(left_out, skip_bad, packed)
        written = {plan.name: sidecar for plan in plans if (sidecar := read_sidecar(packed, plan.name))}
        sidecars = {**kept, **written}
        shards = [_shard(packed, name, sidecar) for name, sidecar in sidecars.items()]
        rows = _rows(utterances, list(sidecars.values()))
        if not rows:
            raise ValueError(f"{folder}: no utterance is left, all {len(utterances)} are faulty")
        store.write_index(folder, shards, rows, tables, stamps, rate)
        (packed / LEFT_OUT).unlink(missing_ok=True)
        if left_out:
            write_table(packed / LEFT_OUT, left_out)
        for path in packed.glob("audio-*"):
            if path.stem not in sidecars:  # of a killed run on other tables, or lost and packed again
                path.unlink()
    _tell(packed, rows, kept, written)


def check(folder: Path, nj: int = 1) -> None:
    """Compare every file of a store with its checksum; prints what is well.

    Raises:
        FileNotFoundError: the set is not packed.
        ValueError: all files that are damaged or missing.
    """
    index = store.open_index(folder, verify=True)
    store.refuse_stale(folder, index)
    found = parallel_map(partial(_damage, packed=packed_folder(folder)), index.shards, nj, folder.name)
    faults = [fault for faults in found for fault in faults]
    if faults:
        raise ValueError(
            "\n".join([*faults, f"remove these and run tse pack {folder}: it packs their utterances again"])
        )
    print(f"{packed_folder(folder)}: ok, {len(index.shards)} shards, {len(index.columns['shard'])} utterances")


def _damage(shard: Shard, packed: Path) -> list[str]:
    faults = []
    for path, wanted in ((packed / f"{shard.name}.wav", shard.sha256), (packed / f"{shard.name}.json", shard.sidecar)):
        if not path.exists():
            faults.append(f"{path}: missing")
        elif store.sha256_of(path) != wanted:
            faults.append(f"{path}: damaged, its checksum is wrong")
    return faults


# --------------------------------------------------------------------------------------------------------------- shards


def plan_shards(utterances: Sequence[Utterance], rate: int | None, first: int, shard_bytes: int) -> list[Plan]:
    """Which utterances go into which shard: those of one rate together, in the order given, `first` is its number."""
    plans: list[Plan] = []
    for own_rate in sorted({rate or utt.sample_rate for utt in utterances}):
        members: list[Utterance] = []
        size = 0
        for utt in utterances:
            if (rate or utt.sample_rate) != own_rate:
                continue
            length = 2 * math.ceil(utt.num_samples * own_rate / utt.sample_rate)
            if members and size + length > shard_bytes:
                plans.append(Plan(_name(first + len(plans)), own_rate, tuple(members)))
                members, size = [], 0
            members.append(utt)
            size += length
        plans.append(Plan(_name(first + len(plans)), own_rate, tuple(members)))
    return plans


class _Abandoned(Exception):
    """A shard that is not to be finished."""


def write_shard(plan: Plan, packed: Path, skip_bad: bool) -> dict[str, str]:
    """Write the wav and then the sidecar of a shard, unless they are there.

    Returns:
        The utterances that cannot be stored, and why. Without `skip_bad` a shard with such a one is not written, with
        it they are left out.
    """
    done = read_sidecar(packed, plan.name)
    if done and _holds(done, plan) and (skip_bad or not done.left_out):
        return done.left_out
    wav, json_path = packed / f"{plan.name}.wav", packed / f"{plan.name}.json"
    json_path.unlink(missing_ok=True)
    copies: list[Copied] = []
    faults: dict[str, str] = {}

    def parts() -> Iterator[np.ndarray]:
        begin = 0
        for utt in plan.utterances:
            try:
                samples, copy = _convert(utt, plan.sample_rate, begin)
            except (ValueError, OSError) as error:
                faults[utt.utt_id] = str(error)
                continue
            copies.append(copy)
            begin += len(samples)
            yield samples
        if not copies or (faults and not skip_bad):
            raise _Abandoned

    try:
        audio.write_pcm16(wav, parts(), plan.sample_rate)
    except _Abandoned:
        return faults
    sidecar = Sidecar(plan.sample_rate, wav.stat().st_size, store.sha256_of(wav), copies, faults)
    said = {**sidecar._asdict(), "utterances": [copy._asdict() for copy in copies]}
    with replace_file(json_path) as file:
        json.dump(said, file, ensure_ascii=False)
    return faults


def read_sidecar(packed: Path, name: str) -> Sidecar | None:
    """What a shard holds; None where it was not finished, is lost or has another size than it was written with."""
    wav, path = packed / f"{name}.wav", packed / f"{name}.json"
    try:
        said = json.loads(path.read_bytes())
        copies = [Copied(**{**copy, "source": tuple(copy["source"])}) for copy in said.pop("utterances")]
        sidecar = Sidecar(utterances=copies, **said)
        return sidecar if wav.stat().st_size == sidecar.num_bytes else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _convert(utt: Utterance, rate: int, begin: int) -> tuple[np.ndarray, Copied]:
    """An utterance as 16-bit samples at `rate`, to lie at `begin` in its shard. ValueError when 16 bits cannot hold it.

    16-bit mono at its own rate comes out as it is.
    """
    if utt.num_samples / utt.sample_rate * rate > MAX_SAMPLES:
        raise ValueError(f"{utt.path}: {utt.seconds / 3600:.1f} h at {rate} Hz, a wav holds 2 GiB at most; cut it")
    channels, own_rate = audio.read(utt.path, start=utt.start, num_samples=utt.num_samples, mono=False)
    if own_rate != utt.sample_rate:
        raise ValueError(f"{utt.path}: has {own_rate} Hz, its table says {utt.sample_rate}; prepare the set again")
    wave = channels.mean(0) if len(channels) > 1 else channels[0]
    peak = float(np.abs(wave).max())
    if peak > 1.0:
        raise ValueError(f"{utt.path}: peak {peak:.3f} is above full scale, 16 bits cannot hold it; lower its level")
    scaled = np.rint(audio.resample(wave, own_rate, rate) / audio.PCM16_SCALE)
    samples = scaled.clip(-(2**15), 2**15 - 1).astype(np.int16)
    clipped = int((np.abs(scaled) > 2**15).sum())  # 2**15 itself is the full scale of other formats
    stored = torch.from_numpy(samples * audio.PCM16_SCALE)
    active = rms(stored, active_samples(stored, rate))
    peak_dbfs, active_dbfs = (_dbfs(float(level)) for level in (stored.abs().max(), active))
    place = (begin, len(samples))
    return samples, Copied(utt.utt_id, _source(utt), *place, peak_dbfs, active_dbfs, len(channels), clipped)


def _dbfs(level: float) -> float:
    return round(max(SILENT_DBFS, 20 * math.log10(level)), 3) if level > 0 else SILENT_DBFS


def _holds(sidecar: Sidecar, plan: Plan) -> bool:
    """Whether a sidecar is that of the plan."""
    wanted = {utt.utt_id: _source(utt) for utt in plan.utterances if utt.utt_id not in sidecar.left_out}
    return (
        sidecar.sample_rate == plan.sample_rate and {copy.utt_id: copy.source for copy in sidecar.utterances} == wanted
    )


def _source(utt: Utterance) -> tuple[str, int, int, int]:
    return utt.path, utt.start, utt.num_samples, utt.sample_rate


def _name(number: int) -> str:
    return f"audio-{number:05d}"


def _number(name: str) -> int:
    return int(name.removeprefix("audio-"))


# ---------------------------------------------------------------------------------------------------------------- index


def _kept_shards(folder: Path, old: Index) -> dict[str, Sidecar]:
    """The shards of the index by name; prints which are lost."""
    packed = packed_folder(folder)
    kept = {}
    for shard in old.shards:
        sidecar = read_sidecar(packed, shard.name)
        if sidecar and store.sha256_of(packed / f"{shard.name}.json") == shard.sidecar:
            kept[shard.name] = sidecar
        else:
            print(f"warning: {packed / shard.name}.wav or .json is missing or damaged; its utterances are packed again")
    return kept


def _shard(packed: Path, name: str, sidecar: Sidecar) -> Shard:
    said = store.sha256_of(packed / f"{name}.json")
    return Shard(name, sidecar.sample_rate, sidecar.num_bytes, sidecar.sha256, said)


def _rows(utterances: Sequence[Utterance], sidecars: Sequence[Sidecar]) -> list[Stored]:
    """The rows of the index: of each utterance that was stored, what the tables say of it and where it lies."""
    places = {
        (copy.utt_id, copy.source): (number, copy)
        for number, sidecar in enumerate(sidecars)
        for copy in sidecar.utterances
    }
    rows = []
    for utt in utterances:
        if found := places.get((utt.utt_id, _source(utt))):
            number, copy = found
            rate = sidecars[number].sample_rate
            placed = replace(utt, start=copy.start, num_samples=copy.num_samples, sample_rate=rate)
            rows.append(Stored(placed, number, copy.peak_dbfs, copy.active_dbfs))
    return rows


# --------------------------------------------------------------------------------------------------------------- words


def _report(faults: dict[str, str], skip_bad: bool, packed: Path) -> None:
    """Tell all faults together, and stop there unless they are to be skipped."""
    if not faults:
        return
    lines = [f"'{utt_id}': {fault}" for utt_id, fault in list(faults.items())[:SHOWN]]
    more = [f"… and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    text = "\n  ".join([*lines, *more])
    if not skip_bad:
        raise ValueError(f"{len(faults)} utterances cannot be packed (--skip_bad goes on without them):\n  {text}")
    print(f"left out, {len(faults)} utterances that cannot be packed ({packed / LEFT_OUT} lists them):\n  {text}")


def _tell(packed: Path, rows: Sequence[Stored], kept: dict[str, Sidecar], written: dict[str, Sidecar]) -> None:
    copies = [copy for sidecar in written.values() for copy in sidecar.utterances]
    several, clipped = sum(copy.num_channels > 1 for copy in copies), sum(copy.num_clipped > 0 for copy in copies)
    if several:
        print(f"warning: {several} utterances have several channels; they were averaged to one")
    if clipped:
        print(f"warning: {clipped} utterances rose above full scale when they were resampled; they were clipped there")
    unused = sum(len(sidecar.utterances) for sidecar in (*kept.values(), *written.values())) - len(rows)
    if unused:
        print(
            f"{unused} utterances in old shards are no longer in the tables; remove {packed} and pack again to be rid"
        )
    size = sum(sidecar.num_bytes for sidecar in (*kept.values(), *written.values()))
    shards = len(kept) + len(written)
    print(f"{packed}: {len(rows)} utterances, {len(copies)} of them new, {shards} shards, {size / 1e6:.1f} MB")
