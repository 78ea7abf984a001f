"""What a checkpoint of another project is found in: a file, a folder, a zip archive, or Hugging Face's cache.

Nothing is executed: tensors are read as data (tse_lib/checkpoint.py), YAML with its tags as text, and no file outside
the source is opened.
"""

import dataclasses
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tse_lib import checkpoint

WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "best_model.pth",
    "model.ckpt",
)  # what a folder's only file of weights is called
POINTER = "last_best_checkpoint"  # ClearerVoice: a text that names it
CONFIGS = ("config.json", "conf.yml", "conf.yaml")
UNPACKED = (".yaml", ".yml", ".json", ".pth", ".pt", ".bin", ".ckpt", ".safetensors")
MAX_UNPACKED = 8 * 2**30
WRAPPERS = (
    "module.",
    "_orig_mod.",
    "audio_model.",
)  # what DistributedDataParallel, torch.compile and Lightning prepend
HOLDERS = ("state_dict", "model_state_dict", "model", "state")  # where a dictionary keeps its tensors


@dataclass(frozen=True)
class Source:
    """A checkpoint that was found and opened.

    Attributes:
        name: as the user named it, for messages.
        folder: where further files lie; None: there are none.
        roots: folders that no file may lead out of.
        saved: what its only file of weights holds; None: it has several.
        tensors: those in `saved`, without what wrappers prepend to their names.
        config: of the network, from the file that was given or lies beside the weights.
        repo: on Hugging Face, where the path says so.
    """

    name: str
    folder: Path | None = None
    roots: tuple[Path, ...] = ()
    saved: Any = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    repo: str = ""

    def has(self, *names: str) -> bool:
        return self.folder is not None and all((self.folder / name).exists() for name in names)

    def path(self, name: str) -> Path:
        """A file of the folder.

        Raises:
            FileNotFoundError, ValueError: there is none, or it leads out of the folder.
        """
        if self.folder is None or not (self.folder / name).exists():
            raise FileNotFoundError(f"{self.name}: '{name}' is missing in it")
        path = (self.folder / name).resolve()
        if not any(path.is_relative_to(root) for root in self.roots):
            raise ValueError(f"{self.name}: '{name}' leads out of it, to {path}; refused")
        return path


@contextmanager
def opened(path: str | Path, config: str | Path | None = None) -> Iterator[Source]:
    """Find and read what lies at `path`; `config` is a file that says more about the network.

    Raises:
        FileNotFoundError, ValueError: nothing is there, or it is damaged or asks for code.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    given = read_config(Path(config)) if config else None
    if path.is_dir():
        yield _read_folder(path, given)
    elif _is_archive(path):
        with tempfile.TemporaryDirectory() as folder:
            _unpack(path, Path(folder))
            yield dataclasses.replace(_read_folder(Path(folder), given), name=str(path))
    else:
        saved = read_weights(path)
        candidates = path.with_suffix(".yaml"), path.parent / "conf.yml", path.parent / "conf.yaml"
        beside = next((candidate for candidate in candidates if candidate.is_file()), None)
        found = given if given is not None or beside is None else read_config(beside)
        yield Source(str(path), saved=saved, tensors=tensors_in(saved), config=found)


def read_weights(path: Path) -> Any:
    if path.suffix != ".safetensors":
        return checkpoint.read_tensors(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: cut short or damaged ({error})") from None


def tensors_in(saved: Any) -> dict[str, Tensor]:
    """The tensors of a dictionary, flat or under one of HOLDERS; none: {}."""
    if not isinstance(saved, dict) or not saved or not all(isinstance(key, str) for key in saved):
        return {}
    if not all(isinstance(value, Tensor) for value in saved.values()):
        return next((tensors_in(saved[key]) for key in HOLDERS if isinstance(saved.get(key), dict)), {})
    prefix = next((prefix for prefix in WRAPPERS if all(key.startswith(prefix) for key in saved)), "")
    return tensors_in({key.removeprefix(prefix): value for key, value in saved.items()}) if prefix else saved


def read_config(path: Path) -> dict[str, Any]:
    """A JSON or YAML file with a dictionary.

    Raises:
        FileNotFoundError, ValueError: there is none, or it is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such configuration")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error})") from None
    if path.suffix == ".json":
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
    else:
        values = read_tagged_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a dictionary expected, not a {type(values).__name__}")
    return values


# --------------------------------------------------------------------------------------------------------------- YAML


@dataclass(frozen=True)
class Tagged:
    """A value of a YAML file and the tag in front of it, as text: `!new:torch.nn.ReLU` does not become a ReLU."""

    tag: str
    value: Any


class _TagLoader(yaml.SafeLoader):
    """Reads tags of a file's own (`!new:…`, `!ref …`) as data; those of Python objects are refused."""


def _as_data(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Tagged:
    if isinstance(node, yaml.MappingNode):
        return Tagged(suffix, loader.construct_mapping(node, deep=True))
    if isinstance(node, yaml.SequenceNode):
        return Tagged(suffix, loader.construct_sequence(node, deep=True))
    return Tagged(suffix, node.value)


_TagLoader.add_multi_constructor("!", _as_data)


def _as_list(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


_TagLoader.add_constructor("tag:yaml.org,2002:python/tuple", _as_list)  # the one of Python's that is common: a list


def read_tagged_yaml(text: str, name: str) -> Any:
    """YAML whose tags are kept as `Tagged` and not acted upon, and whose `!ref <key>` are resolved as text.

    Raises:
        ValueError: no YAML, or it asks for Python objects.
    """
    try:
        values = yaml.load(text, Loader=_TagLoader)  # noqa: S506  (a SafeLoader)
    except yaml.constructor.ConstructorError as error:
        raise ValueError(f"{name}: refused, {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{name}: not YAML ({str(error).splitlines()[0]})") from None
    except (KeyError, AttributeError, TypeError, ValueError) as error:  # `!!bool 3`, 2024-13-45, a dictionary as a key
        raise ValueError(f"{name}: not YAML, a value is not what it looks like ({error})") from None
    try:
        return _resolved(values, values if isinstance(values, dict) else {}, name, {})
    except RecursionError:
        raise ValueError(f"{name}: references that lead too far") from None


BEGUN = object()
LONGEST = 1000  # characters put in the middle of a text: texts of texts of texts would grow without end


def _resolved(value: Any, top: dict[str, Any], name: str, done: dict[int, Any]) -> Any:
    """`value` with each `!ref <key>` replaced by what `key` of `top` is; expressions around it stay text.

    `done` has the results by the identity of what they are of: a file may use a part of itself many times over.
    """
    if not isinstance(value, (dict, list, Tagged)):
        return value
    if id(value) in done:
        if done[id(value)] is BEGUN:
            raise ValueError(f"{name}: references that lead to each other")
        return done[id(value)]
    done[id(value)] = BEGUN
    result: Any
    if isinstance(value, dict):
        result = {key: _resolved(item, top, name, done) for key, item in value.items()}
    elif isinstance(value, list):
        result = [_resolved(item, top, name, done) for item in value]
    elif value.tag != "ref" or not isinstance(value.value, str):
        result = Tagged(value.tag, _resolved(value.value, top, name, done))
    elif whole := re.fullmatch(r"<(\w+)>", value.value):
        if whole[1] not in top:
            raise ValueError(f"{name}: !ref {value.value} leads nowhere")
        result = _resolved(top[whole[1]], top, name, done)
    else:
        parts = {key: _resolved(top.get(key), top, name, done) for key in re.findall(r"<(\w+)>", value.value)}
        texts = {key: str(part) for key, part in parts.items() if isinstance(part, (str, int, float))}
        plain = {key: text for key, text in texts.items() if len(text) <= LONGEST}
        result = re.sub(r"<(\w+)>", lambda key: plain.get(key[1], key[0]), value.value)
    done[id(value)] = result
    return result


# ------------------------------------------------------------------------------------------------------------- folders


def hugging_face_cache() -> Path:
    """Where Hugging Face's clients keep what they downloaded."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def _read_folder(folder: Path, config: Mapping[str, Any] | None) -> Source:
    """A folder of files, or one of Hugging Face's cache: its links may lead anywhere within that cache."""
    name, repo = str(folder), ""
    roots = [hugging_face_cache().resolve()]
    for part in (folder, *folder.absolute().parents):
        if part.name.startswith("models--") and (part / "snapshots").is_dir():
            repo = part.name.removeprefix("models--").replace("--", "/", 1)
            roots.append(part.resolve())
            folder = _snapshot(part) if part == folder else folder
            break
    roots.append(folder.resolve())
    source = Source(name, folder, tuple(roots), config=config, repo=repo)
    weights = next((file for file in WEIGHTS if source.has(file)), "")
    if not weights and source.has(POINTER):
        weights = (source.path(POINTER).read_text(encoding="utf-8").splitlines() or [""])[0].strip()
        if not weights or PurePosixPath(weights).name != weights:
            raise ValueError(f"{name}/{POINTER}: a file name beside it expected, got {weights!r}")
    beside = next((file for file in CONFIGS if source.has(file)), "")
    if config is None and beside:
        config = read_config(source.path(beside))
    saved = read_weights(source.path(weights)) if weights else None
    return Source(name, folder, tuple(roots), saved, tensors_in(saved), config, repo)


def _snapshot(folder: Path) -> Path:
    """The revision of a cached repository that `refs/main` names, or the only one that there is."""
    main = folder / "refs" / "main"
    revisions = sorted(path.name for path in (folder / "snapshots").iterdir())
    revision = main.read_text(encoding="utf-8").strip() if main.is_file() else revisions[0] if revisions else ""
    if revision not in revisions or (len(revisions) > 1 and not main.is_file()):
        found = ", ".join(revisions) or "none"
        raise ValueError(f"{folder}: which revision is not clear; name one, there are in snapshots/: {found}")
    return folder / "snapshots" / revision


# ------------------------------------------------------------------------------------------------------------ archives


def _is_archive(path: Path) -> bool:
    """A zip archive of files. torch's own checkpoints are zip archives, too."""
    try:
        with zipfile.ZipFile(path) as archive:
            return not any(PurePosixPath(name).name == "data.pkl" for name in archive.namelist())
    except Exception:  # what no zip archive is, or a damaged one, ends in errors of many kinds
        return False


def _unpack(path: Path, folder: Path) -> None:
    """The files that a model can need, below `folder`. A bad name or size refuses the whole archive."""
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        for member in members:
            name = PurePosixPath(member.filename)
            if name.is_absolute() or ".." in name.parts or "\\" in member.filename:
                raise ValueError(f"{path}: refused, '{member.filename}' would lead out of the folder it is unpacked in")
            if member.file_size > 2**20 and member.file_size > 100 * member.compress_size:
                raise ValueError(f"{path}: refused, '{member.filename}' would grow a hundredfold when unpacked")
        wanted = [member for member in members if PurePosixPath(member.filename).suffix in UNPACKED]
        if sum(member.file_size for member in wanted) > MAX_UNPACKED:
            raise ValueError(f"{path}: refused, more than {MAX_UNPACKED >> 30} GiB when unpacked")
        for member in wanted:
            target = folder / member.filename
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, open(target, "wb") as file:
                    shutil.copyfileobj(packed, file)
            except Exception as error:  # damaged: BadZipFile, zlib.error, EOFError, …; encrypted: RuntimeError
                raise ValueError(f"{path}: '{member.filename}' cannot be unpacked ({error})") from None
