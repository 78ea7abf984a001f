"""Write a packed model and prove that it is the model."""

import json
from pathlib import Path
from typing import Any

import torch

from tse_lib.inference.extractor import Extractor
from tse_lib.inference.loading import load
from tse_lib.inference.packed import write_packed
from tse_lib.inference.separator import Separator
from tse_lib.models import task_of

COMMANDS = {
    "extract": "tse extract mixture.wav --enroll talker.wav --model THIS_FOLDER -o talker_alone.wav",
    "separate": "tse separate mixture.wav --model THIS_FOLDER -o sources",
}


def pack(model: Extractor | Separator, folder: str | Path, source: str, summary: Path | None, data_licence: str) -> int:
    """Write the folder, read it back, compare every weight. Returns the size of the weights in bytes.

    Raises:
        ValueError: what was read back differs.
    """
    weights = model.model.state_dict()
    write_packed(folder, weights, model.conf, readme(model, source, summary, data_licence))
    again = load(folder).model.state_dict()
    for name, value in weights.items():
        if not torch.equal(again[name], value):
            raise ValueError(f"{folder}: '{name}' differs after packing; the disk may be failing")
    return sum(value.numel() * value.element_size() for value in weights.values())


def readme(model: Extractor | Separator, source: str, summary: Path | None, data_licence: str) -> str:
    conf = model.conf
    count = sum(p.numel() for p in model.model.parameters())
    lines = [
        f"# {conf.model.name}, {conf.sample_rate} Hz",
        "",
        f"{count:,} parameters, packed from `{source}`.",
        f"Licence of the training data: {data_licence}.",
        "",
        "```",
        COMMANDS[task_of(conf.model.name)],
        "```",
    ]
    if summary:
        figures = read_summary(summary)
        what = "stems" if "stems" in figures else "targets"
        lines += ["", f"Scored on {figures['n']} {what} (conf {figures['conf']}, seed {figures['seed']}):", ""]
        lines += ["| metric | mean | 95 % interval | n |", "|---|---|---|---|"]
        for name, value in figures["metrics"].items():
            if value["mean"] is not None:
                limits = "{:.2f} to {:.2f}".format(*value["ci95"]) if value["ci95"] else "-"
                lines.append(f"| {name} | {value['mean']:.2f} | {limits} | {value['n']} |")
    return "\n".join(lines) + "\n"


def read_summary(path: Path) -> dict[str, Any]:
    """summary.json of `tse results`."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(figures, dict) or not {"n", "conf", "seed", "metrics"} <= figures.keys():
        raise ValueError(f"{path}: not a summary.json of tse results")
    return figures
