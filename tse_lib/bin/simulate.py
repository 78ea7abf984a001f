"""tse simulate: decide the fixed development and test mixtures of a recipe, as text."""

import argparse
import shutil
from pathlib import Path

from tse_lib.config import Layers, load_sets
from tse_lib.manifest import write_mixtures
from tse_lib.simulation.layers import layered_set
from tse_lib.simulation.sample import check_disjoint, sample_set


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse simulate",
        description="Draw the mixtures of every set in conf/sets.yaml, or of layered ones list the variants: "
        "data/<set>/mixtures.jsonl, one mixture a line.",
        epilog="example: tse simulate --conf conf/sets.yaml --data data",
    )
    parser.add_argument("--conf", required=True, help="the sets: conf/sets.yaml")
    parser.add_argument("--data", default="data", help="folder of the data sets (default: %(default)s)")
    args = parser.parse_args(argv)

    sets = load_sets(args.conf)
    layered = {name for name, conf in sets.sets.items() if isinstance(conf.simulation, Layers)}
    found = {
        name: layered_set(args.data, name, sets) if name in layered else sample_set(args.data, name, sets)[1]
        for name in sets.sets
    }
    drawn = [conf for name, conf in sets.sets.items() if name not in layered]
    for kind in ("speech", "noise", "rirs"):
        check_disjoint(args.data, sorted({name for conf in drawn for name in getattr(conf, kind)}))
    for name, mixtures in found.items():
        folder = Path(args.data) / name
        list_path = folder / "mixtures.jsonl"
        text = "".join(mixture.to_json() + "\n" for mixture in mixtures)
        if not list_path.exists() or list_path.read_text(encoding="utf-8") != text:
            shutil.rmtree(folder / "mixtures", ignore_errors=True)  # audio of other mixtures
        write_mixtures(list_path, mixtures)
        present = sum(mixture.target_present for mixture in mixtures)
        absent = len(mixtures) - present
        print(f"{list_path}: {len(mixtures)} mixtures, target present in {present}, absent in {absent}")
