"""The packed store of a data set: its audio in few 16-bit wav files, and an index that is mapped, not loaded.

    data/<set>/packed/audio-00000.wav …   mono, one sample rate each; `Utterance.path` and `.start` lead into them
    data/<set>/packed/audio-00000.json …  what lies where in the wav and what it was made of; only `tse pack` reads it
    data/<set>/packed/index.safetensors   all utterances, by id

`tse pack` writes it (tse_lib/data/pack.py), `read_data_dir` reads it. The index is one file, so it is replaced at once,
and it has the layout of safetensors (https://github.com/huggingface/safetensors: the length of a JSON header, the
header, then arrays), so that other tools open it. Of a million utterances nothing is read before it is asked for, and
all processes share the same pages.
"""

import hashlib
import json
import mmap
import re
import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from tse_lib.files import temporary_for
from tse_lib.manifest import Utterance

VERSION = "1"
TABLES = ("wav.scp", "segments", "utt2num_samples", "utt2fs", "utt2spk", "utt2activity", "utt2group")
DTYPES = {"I64": "<i8", "U32": "<u4", "F32": "<f4", "U8": "u1"}  # wide ones first: so each array is aligned
COLUMNS = """
    id_ends activity_ends speaker_ends group_ends speaker_run_ends start num_samples shard speaker group speaker_runs
    peak_dbfs active_dbfs id_text speaker_text group_text activity sha256
""".split()
SILENT_DBFS = -200.0  # the level of digital silence


class Shard(NamedTuple):
    """One wav of the store; `name` has no ending. `sha256` is that of the wav, `sidecar` that of the json."""

    name: str
    sample_rate: int
    num_bytes: int
    sha256: str
    sidecar: str


class Stored(NamedTuple):
    """A row of the index: the utterance with `start` in its shard (`path` is not looked at), and its levels.

    Attributes:
        shard: its number in the list of shards.
        peak_dbfs: of the loudest sample.
        active_dbfs: RMS of the active samples (`dsp.level.active_samples`).
    """

    utterance: Utterance
    shard: int
    peak_dbfs: float
    active_dbfs: float


class Index(NamedTuple):
    """What `index.safetensors` holds; `columns` are views of the mapped file."""

    shards: list[Shard]
    sample_rate: int | None  # what all audio was resampled to; None: every utterance has its own rate
    tables: str  # hash of the tables that it was made of
    stamps: dict[str, list[int]]  # their sizes and times
    columns: dict[str, np.ndarray]


def packed_folder(folder: str | Path) -> Path:
    return Path(folder) / "packed"


def index_path(folder: str | Path) -> Path:
    return packed_folder(folder) / "index.safetensors"


def is_packed(folder: str | Path) -> bool:
    return index_path(folder).exists()


# ---------------------------------------------------------------------------------------------------------- utterances


class PackedUtterances(Sequence[Utterance]):
    """The utterances of a packed set in the order of their ids, each made when it is asked for.

    Pickled it is no more than its folder. Compares equal to any sequence of equal utterances.

    Attributes:
        num_samples: (N,) integers, at each utterance's own rate.
        peak_dbfs, active_dbfs: (N,) float32, see `Stored`.
        by_speaker: places of each speaker's utterances; speakers in bytewise order.

    Raises:
        FileNotFoundError: the set or one of the store's wav files is missing.
        ValueError: the tables changed since it was packed, or a file of the store is damaged.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._index = open_index(self.folder)
        refuse_stale(self.folder, self._index)
        refuse_lost_shards(self.folder, self._index)
        self._columns = self._index.columns
        self._paths = [str(packed_folder(self.folder) / f"{shard.name}.wav") for shard in self._index.shards]
        self.num_samples = self._columns["num_samples"]
        self.peak_dbfs = self._columns["peak_dbfs"]
        self.active_dbfs = self._columns["active_dbfs"]

    def __len__(self) -> int:
        return len(self.num_samples)

    @overload
    def __getitem__(self, place: int) -> Utterance: ...
    @overload
    def __getitem__(self, place: slice) -> list[Utterance]: ...
    def __getitem__(self, place: int | slice) -> Utterance | list[Utterance]:
        numbers = range(len(self))[place]  # what a list makes of negative numbers and slices
        return (
            [self._utterance(number) for number in numbers] if isinstance(numbers, range) else self._utterance(numbers)
        )

    def __iter__(self) -> Iterator[Utterance]:
        return map(self._utterance, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedUtterances, (self.folder,)

    def __repr__(self) -> str:
        return f"<{len(self)} utterances of {self.folder}>"

    @cached_property
    def by_speaker(self) -> Mapping[str, Sequence[int]]:
        ends = self._columns["speaker_run_ends"]
        return _Runs(self._names("speaker"), self._columns["speaker_runs"], ends)

    def _utterance(self, number: int) -> Utterance:
        columns, shard = self._columns, self._columns["shard"][number]
        return Utterance(
            _text(columns, "id", number),
            self._paths[shard],
            self._index.shards[shard].sample_rate,
            int(columns["num_samples"][number]),
            int(columns["start"][number]),
            _text(columns, "speaker", columns["speaker"][number]),
            self._activity(number),
            _text(columns, "group", columns["group"][number]),
        )

    def _activity(self, number: int) -> str:
        begin, end = (int(bit) for bit in self._columns["activity_ends"][number : number + 2])
        bits = np.unpackbits(self._columns["activity"][begin // 8 : -(-end // 8)])[begin % 8 :][: end - begin]
        return (bits + ord("0")).tobytes().decode()

    def _names(self, name: str) -> list[str]:
        return [_text(self._columns, name, number) for number in range(len(self._columns[f"{name}_ends"]) - 1)]


class _Runs(Mapping[str, Sequence[int]]):
    """Speaker to places of utterances, without an object for each utterance."""

    def __init__(self, names: list[str], places: np.ndarray, ends: np.ndarray):
        self._numbers = {name: number for number, name in enumerate(names)}
        self._places, self._ends = places, ends

    def __getitem__(self, name: str) -> list[int]:
        number = self._numbers[name]
        return self._places[self._ends[number] : self._ends[number + 1]].tolist()

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def _text(columns: dict[str, np.ndarray], name: str, number: int) -> str:
    """String `number` of the column of strings `name`: its bytes in `<name>_text`, where they end in `<name>_ends`."""
    begin, end = columns[f"{name}_ends"][number : number + 2]
    return columns[f"{name}_text"][begin:end].tobytes().decode()


# -------------------------------------------------------------------------------------------------------------- checks


def refuse_stale(folder: Path, index: Index) -> None:
    """ValueError when the tables are not those that the index was made of.

    Tables of the same sizes and times are taken to be the same; others (a copied set) are hashed, which takes a second
    or two for a million utterances.
    """
    if not (folder / "wav.scp").exists():
        raise FileNotFoundError(f"{folder}: no data set here (wav.scp is missing); run the prepare stage")
    if stamps_of(folder) != index.stamps and hash_of_tables(folder) != index.tables:
        raise ValueError(
            f"{packed_folder(folder)}: the tables of {folder} changed since it was packed; run tse pack {folder}, "
            "or remove this folder to read the plain files"
        )


def refuse_lost_shards(folder: Path, index: Index) -> None:
    """An error for the first wav that is missing or has another size than it was written with."""
    for number, shard in enumerate(index.shards):
        path = packed_folder(folder) / f"{shard.name}.wav"
        size = path.stat().st_size if path.exists() else None
        if size == shard.num_bytes:
            continue
        lost = np.flatnonzero(index.columns["shard"] == number)
        names = (
            f"'{_text(index.columns, 'id', lost[0])}' and {len(lost) - 1} more utterances" if len(lost) else "nothing"
        )
        way_out = f"it holds {names}; tse pack {folder} packs them again"
        if size is None:
            raise FileNotFoundError(f"{path}: missing; {way_out}")
        raise ValueError(f"{path}: {size} bytes instead of {shard.num_bytes}; {way_out}")


def stamps_of(folder: Path) -> dict[str, list[int]]:
    """Size and time of each table that is there."""
    stats = {name: (folder / name).stat() for name in TABLES if (folder / name).exists()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def hash_of_tables(folder: Path) -> str:
    return hashlib.sha256(
        "".join(f"{name} {sha256_of(folder / name)}\n" for name in TABLES if (folder / name).exists()).encode()
    ).hexdigest()


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------------- index


def open_index(folder: Path, verify: bool = False) -> Index:
    """Map the index of a data set.

    Args:
        verify: also compare it with the checksum at its end, which reads all of it.

    Raises:
        FileNotFoundError: the set is not packed.
        ValueError: the file is damaged, or of another version of the store.
    """
    path = index_path(folder)
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing; run tse pack {folder}")
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        (length,) = struct.unpack("<Q", mapped[:8])
        header = json.loads(mapped[8 : 8 + length])
        said = header.pop("__metadata__")
        if said["version"] != VERSION:
            raise ValueError(f"of version {said['version']}, this is {VERSION}")
        columns = {}
        end = 0
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            columns[name] = np.frombuffer(mapped, DTYPES[entry["dtype"]], entry["shape"][0], 8 + length + begin)
        if set(columns) != set(COLUMNS):
            raise ValueError(f"columns {', '.join(sorted(set(columns) ^ set(COLUMNS)))} missing or unknown")
        if 8 + length + end != len(mapped):
            raise ValueError("cut short or longer than it was")
        if verify and columns["sha256"].tobytes() != hashlib.sha256(memoryview(mapped)[:-32]).digest():
            raise ValueError("its checksum is wrong")
        shards = [Shard(**shard) for shard in json.loads(said["shards"])]
        odd = [shard.name for shard in shards if not re.fullmatch(r"audio-\d{5,}", shard.name)]
        if odd:
            raise ValueError(f"{odd[0]!r} is no name of a shard")
        return Index(shards, json.loads(said["sample_rate"]), said["tables"], json.loads(said["stamps"]), columns)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"{path}: cannot be used ({error}); remove it and run tse pack {folder}") from None


def write_index(
    folder: Path,
    shards: Sequence[Shard],
    rows: Iterable[Stored],
    tables: str,
    stamps: dict[str, list[int]],
    sample_rate: int | None = None,
) -> None:
    """Write the index of a data set.

    Args:
        rows: in the order of their ids.
        tables, stamps: `hash_of_tables` and `stamps_of` the tables that `rows` are made of.
        sample_rate: what all audio was resampled to, if it was.
    """
    numbers = {name: array("I") for name in ("start", "num_samples", "shard")}
    levels = {name: array("f") for name in ("peak_dbfs", "active_dbfs")}
    ids, id_ends, activity, activity_ends = bytearray(), array("q", [0]), bytearray(), array("q", [0])
    speakers: dict[str, int] = {}
    groups: dict[str, int] = {}
    speaker_of, group_of = array("I"), array("I")
    for utt, shard, peak_dbfs, active_dbfs in rows:
        ids += utt.utt_id.encode()
        id_ends.append(len(ids))
        activity += utt.activity.encode()
        activity_ends.append(len(activity))
        for name, number in (("start", utt.start), ("num_samples", utt.num_samples), ("shard", shard)):
            numbers[name].append(number)
        for name, level in (("peak_dbfs", peak_dbfs), ("active_dbfs", active_dbfs)):
            levels[name].append(level)
        speaker_of.append(speakers.setdefault(utt.spk_id, len(speakers)))
        group_of.append(groups.setdefault(utt.group, len(groups)))

    speaker_text, speaker_ends, speaker = _sorted_names(speakers, speaker_of)
    group_text, group_ends, group = _sorted_names(groups, group_of)
    columns = {
        "id_ends": np.array(id_ends, "<i8"),
        "activity_ends": np.array(activity_ends, "<i8"),
        "speaker_ends": speaker_ends,
        "group_ends": group_ends,
        "speaker_run_ends": np.cumsum([0, *np.bincount(speaker, minlength=len(speakers))], dtype="<i8"),
        **{name: np.array(values, "<u4") for name, values in numbers.items()},
        "speaker": speaker,
        "group": group,
        "speaker_runs": np.argsort(speaker, kind="stable").astype("<u4"),
        **{name: np.array(values, "<f4") for name, values in levels.items()},
        "id_text": np.frombuffer(ids, "u1"),
        "speaker_text": speaker_text,
        "group_text": group_text,
        "activity": np.packbits(np.frombuffer(activity, "u1") - ord("0")),
    }
    said = {
        "version": VERSION,
        "shards": json.dumps([shard._asdict() for shard in shards]),
        "sample_rate": json.dumps(sample_rate),
        "tables": tables,
        "stamps": json.dumps(stamps),
    }
    _write_columns(index_path(folder), columns, said)


def _sorted_names(numbers: dict[str, int], places: array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names in bytewise order (their text and where each ends), and the number that each row has among them."""
    names = sorted(numbers, key=str.encode)
    rank = np.empty(len(names), "<u4")
    rank[[numbers[name] for name in names]] = np.arange(len(names))
    encoded = [name.encode() for name in names]
    ends = np.cumsum([0, *map(len, encoded)], dtype="<i8")
    return np.frombuffer(b"".join(encoded), "u1"), ends, rank[np.array(places, "<u4")]


def _write_columns(path: Path, columns: dict[str, np.ndarray], said: dict[str, str]) -> None:
    """Arrays and `said` in the layout of safetensors, and a checksum of all that as a last array."""
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": said}
    end = 0
    for name, column in {**columns, "sha256": np.empty(32, "u1")}.items():
        begin, end = end, end + column.nbytes
        header[name] = {"dtype": names[column.dtype], "shape": list(column.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with temporary_for(path) as temporary, open(temporary, "wb") as file:
        for part in (
            struct.pack("<Q", len(text)),
            text,
            *(column.tobytes() for column in columns.values()),
        ):
            digest.update(part)
            file.write(part)
        file.write(digest.digest())
