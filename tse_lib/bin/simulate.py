"""tse simulate: decide the fixed development and test mixtures of a recipe, as text."""

import argparse
import shutil
from pathlib import Path

from tse_lib.config import Layers, Sets, Simulation, Stems, load_sets
from tse_lib.manifest import Mixture, read_stems, write_mixtures
from tse_lib.simulation.layers import layered_set
from tse_lib.simulation.sample import check_disjoint, sample_set
from tse_lib.simulation.stems import stem_set


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse simulate",
        description="Draw the mixtures of every set in conf/sets.yaml, or of layered ones list the variants: "
        "data/<set>/mixtures.jsonl, one mixture a line.",
        epilog="example: tse simulate --conf conf/sets.yaml --data data",
    )
    parser.add_argument("--conf", required=True, help="the sets: conf/sets.yaml")
    parser.add_argument("--data", default="data", help="folder of the data sets (default: %(default)s)")
    parser.add_argument("--sets", nargs="+", metavar="SET", help="only these of the conf's sets (default: all)")
    args = parser.parse_args(argv)

    sets = load_sets(args.conf)
    unknown = sorted(set(args.sets or []) - set(sets.sets))
    if unknown:
        raise ValueError(f"--sets {unknown[0]}: {args.conf} has {', '.join(sets.sets)}")
    chosen = {name: one for name, one in sets.sets.items() if not args.sets or name in args.sets}
    sets = sets.model_copy(update={"sets": chosen})
    found = {name: mixtures_of(args.data, name, sets) for name in sets.sets}
    drawn = [conf for conf in sets.sets.values() if isinstance(conf.simulation, Simulation)]
    for kind in ("speech", "noise", "rirs"):
        check_disjoint(args.data, sorted({name for conf in drawn for name in getattr(conf, kind)}))
    refuse_shared_stems(Path(args.data), sets)
    for name, mixtures in found.items():
        folder = Path(args.data) / name
        list_path = folder / "mixtures.jsonl"
        text = "".join(mixture.to_json() + "\n" for mixture in mixtures)
        if not list_path.exists() or list_path.read_text(encoding="utf-8") != text:
            shutil.rmtree(folder / "mixtures", ignore_errors=True)  # audio of other mixtures
        write_mixtures(list_path, mixtures)
        present = sum(mixture.target_present for mixture in mixtures)
        absent = len(mixtures) - present
        told = "" if mixtures[0].stems else f", target present in {present}, absent in {absent}"
        print(f"{list_path}: {len(mixtures)} mixtures{told}")


def mixtures_of(data: str, name: str, sets: Sets) -> list[Mixture]:
    simulation = sets.sets[name].simulation
    if isinstance(simulation, Stems):
        return stem_set(data, name, sets)
    return layered_set(data, name, sets) if isinstance(simulation, Layers) else sample_set(data, name, sets)[1]


def refuse_shared_stems(data: Path, sets: Sets) -> None:
    """ValueError when a performance or a track is in two of the data sets."""
    owner: dict[str, str] = {}
    for folder in sorted({folder for conf in sets.sets.values() for folder in conf.tracks}):
        stems = read_stems(data / folder)
        for name in (*(one.perf_id for one in stems.performances), *(one.track_id for one in stems.tracks)):
            if owner.setdefault(name, folder) != folder:
                raise ValueError(f"{data}: '{name}' is in {owner[name]} and in {folder}; sets must be disjoint")
