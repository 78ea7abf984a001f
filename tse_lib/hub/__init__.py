"""Strict importers of other projects' checkpoints: nothing is executed, no tensor may be missing or left over.

Each importer is a file with `recognise(source)`, `read(source, given)`, which says what our network is and hands over
the published tensors, `names_of(name, params)`, the table of their names, and `write(...)`, which makes such a file.
"""

import inspect
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tse_lib.config import Deployed, build
from tse_lib.hub import (
    asteroid,
    espnet,
    hifi_tse,
    look2hear,
    mdx23c,
    mossformer2,
    polsess,
    sepmamba,
    speakerbeam,
    speechbrain,
    spex_plus,
    usef_tse,
    usef_tse_mamba,
    x_tf_gridnet,
)
from tse_lib.hub.found import Found, Given
from tse_lib.hub.names import Names, from_published, to_published
from tse_lib.hub.public import PUBLIC
from tse_lib.hub.source import Source, hugging_face_cache, opened
from tse_lib.models import MODELS, build_model
from tse_lib.models.presets import PRESETS


@dataclass(frozen=True)
class Importer:
    """A published layout.

    Attributes:
        models: those of ours that it can hold.
        recognise, read, names_of, write: see above.
    """

    models: tuple[str, ...]
    recognise: Callable[[Source], bool]
    read: Callable[[Source, Given], Found]
    names_of: Callable[[str, Mapping[str, Any]], Names]
    write: Callable[[Path, str, Mapping[str, Any], int, dict[str, Tensor]], None]


def _importer(module: Any, *models: str) -> Importer:
    return Importer(models, module.recognise, module.read, module.names_of, module.write)


IMPORTERS = {  # the first that recognises a source reads it
    "hifi_tse": _importer(hifi_tse, "hifi_tse"),
    "polsess": _importer(polsess, "conv_tasnet", "dprnn", "sepformer", "spmamba", "mossformer2"),
    "mossformer2": _importer(mossformer2, "mossformer2"),
    "mossformer2_hf": Importer(
        ("mossformer2",),
        mossformer2.recognise_hugging_face,
        mossformer2.read_hugging_face,
        mossformer2.hugging_face_names_of,
        mossformer2.write_hugging_face,
    ),
    "mdx23c": _importer(mdx23c, "tfc_tdf"),
    "spex_plus": _importer(spex_plus, "spex_plus"),
    "x_tf_gridnet": _importer(x_tf_gridnet, "x_tf_gridnet"),
    "speakerbeam": _importer(speakerbeam, "td_speakerbeam"),
    "asteroid": _importer(asteroid, "conv_tasnet", "dprnn", "dptnet"),
    "look2hear": _importer(look2hear, "spmamba"),
    "sepmamba": _importer(sepmamba, "sepmamba"),
    "espnet": _importer(espnet, "tf_gridnet", "dptnet"),
    "usef_tse": _importer(usef_tse, "usef_tf_gridnet", "usef_sepformer"),
    "usef_tse_mamba": _importer(usef_tse_mamba, "usef_tse_mamba"),
    "speechbrain": _importer(speechbrain, "sepformer", "conv_tasnet", "dprnn"),
}


class Imported(NamedTuple):
    """A checkpoint of another project as a network of ours: `told` says what was recognised."""

    name: str
    params: dict[str, Any]
    sample_rate: int
    weights: dict[str, Tensor]
    told: str
    conf: Deployed


def import_checkpoint(
    path: str | Path, preset: str | None = None, config: str | Path | None = None, sample_rate: int | None = None
) -> Imported:
    """Read a checkpoint of another project.

    Args:
        path: a file, a folder, a zip archive, a folder of Hugging Face's cache, or a name of PUBLIC that is in it.
        preset: what the network is, of PRESETS, where the checkpoint does not say it.
        config: a file of the other project that says it.
        sample_rate: in Hz, whatever these say.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: not recognised, damaged, asks to run code, has options that are not built here, or its tensors do
            not fit the network exactly.
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"--preset {preset}: unknown; tse models lists {', '.join(PRESETS)}")
    if sample_rate is not None and sample_rate < 1:
        raise ValueError(f"--sample_rate {sample_rate}: must be above 0")
    given = Given(sample_rate=sample_rate)
    if preset:
        facts = PRESETS[preset]
        given = Given((facts["name"], facts["params"], sample_rate or facts["sample_rate"]), sample_rate)
    with opened(_located(path), config) as source:
        importer = next((importer for importer in IMPORTERS.values() if importer.recognise(source)), None)
        if importer is None:
            raise ValueError(f"{path}: not recognised (it holds {_content(source)}); known: {', '.join(IMPORTERS)}")
        known = next((public for public in PUBLIC.values() if public.repo == source.repo), None)
        if known:
            given = Given(given.model, given.sample_rate, known.sample_rate)
        try:
            found = importer.read(source, given)
            if found.name not in importer.models:
                raise ValueError(f"{path}: {found.told} cannot be a {found.name}; --preset must be of its kind")
            names = importer.names_of(found.name, complete(found.name, found.params))
            with torch.device("meta"):  # only shapes are wanted, whatever sizes the options ask for
                wanted = build_model(found.name, found.params, found.sample_rate, task=None).state_dict()
            weights = from_published(found.tensors, names, wanted, str(path))
        except (TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
            # a text for a number, a list for a section, a tensor that is sparse: anything may stand there
            raise ValueError(
                f"{path}: an option or a tensor in it, or in its configuration, is not what it must be ({error!r})"
            ) from error
    origin = f", {known.repo}{f' ({known.licence})' if known.licence else ''}" if known else ""
    inference = {"chunk_s": 4.0, "overlap_count": 2, **found.inference}
    values = {"sample_rate": found.sample_rate, "inference": inference}
    values["model"] = {"name": found.name, "params": found.params}
    conf = build(Deployed, values, str(path))
    return Imported(found.name, found.params, found.sample_rate, weights, found.told + origin, conf)


def export_checkpoint(
    importer: str, path: str | Path, name: str, params: Mapping[str, Any], sample_rate: int, weights: dict[str, Tensor]
) -> None:
    """Write our network in a published layout, to compare with the project it comes from; read back and compared.

    Raises:
        ValueError: the layout does not hold such a network.
        FileExistsError: something is at `path` already.
    """
    path = Path(path)
    if importer not in IMPORTERS:
        raise ValueError(f"--to {importer}: no such layout; known: {', '.join(IMPORTERS)}")
    layout = IMPORTERS[importer]
    if name not in layout.models:
        fitting = [key for key, other in IMPORTERS.items() if name in other.models]
        raise ValueError(
            f"--to {importer}: it has no {name}, only {', '.join(layout.models)}; try {', '.join(fitting)}"
        )
    if path.exists():
        raise FileExistsError(f"{path}: exists already")
    full = complete(name, params)
    published = to_published(weights, layout.names_of(name, full))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        layout.write(partial, name, full, sample_rate, published)
        with opened(partial) as source:
            found = layout.read(source, Given(sample_rate=sample_rate))
        again, there = complete(found.name, found.params), found.tensors
        lost = [key for key, value in full.items() if again.get(key) != value and key != "dropout"]
        if lost:
            raise ValueError(f"--to {importer}: it cannot say {', '.join(f'{key}: {full[key]!r}' for key in lost)}")
        if there.keys() != published.keys() or any(not there[key].equal(published[key]) for key in there):
            raise OSError(f"{path}: differs when read back; the disk may be failing")
        os.replace(partial, path)


def complete(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a network: those given, and the defaults of the others that say what it is."""
    told = {key: option.default for key, option in inspect.signature(MODELS[name]).parameters.items()}
    told = {key: value for key, value in told.items() if key not in ("gradient_checkpointing", "sample_rate")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in {**told, **params}.items()}


def _located(path: str | Path) -> Path:
    """A path, or where the public checkpoint of this name lies in Hugging Face's cache."""
    public = PUBLIC.get(str(path)) or next((one for one in PUBLIC.values() if one.repo == str(path)), None)
    if public is None or Path(path).exists():
        return Path(path)
    folder = hugging_face_cache() / f"models--{public.repo.replace('/', '--')}"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{path}: neither a path nor in Hugging Face's cache ({folder}); `huggingface-cli download {public.repo}` "
            "puts it there"
        )
    return folder


def _content(source: Source) -> str:
    if source.has("model.yaml") or (isinstance(source.saved, dict) and {"modules", "version"} <= source.saved.keys()):
        return "a model of ours, which tse export packs and tse convert --to writes in another layout"
    if isinstance(source.saved, dict):
        return ", ".join(map(str, list(source.tensors or source.saved)[:5])) or "nothing"
    if source.folder is not None and source.saved is None:
        return ", ".join(sorted(path.name for path in source.folder.iterdir())[:8]) or "nothing"
    return type(source.saved).__name__
