"""tse curves: compare trainings in one page."""

import argparse
import shlex
from pathlib import Path

from tse_lib.bin.inspect import positive
from tse_lib.evaluation.curves import curves_page, svg_files
from tse_lib.evaluation.runs import Run, config_of, read_runs
from tse_lib.files import replace_file
from tse_lib.models import build_model


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse curves",
        description="Write a page that compares trainings, finished or not: development scores, losses, learning rate "
        "and curriculum over steps or hours, what came of each, and where their confs differ.",
        epilog="example: tse curves exp/* -o curves.html",
    )
    parser.add_argument("exp", nargs="+", help="folder of an experiment, as exp/tse; others among several are left out")
    parser.add_argument("-o", "--out", type=Path, default=Path("curves.html"), help="page (default: %(default)s)")
    parser.add_argument("--svg", type=Path, metavar="DIR", help="write each chart as an SVG file there, too")
    parser.add_argument(
        "--smooth", type=positive, metavar="STEPS", help="width of the mean that losses are smoothed by; 1: none "
        "(default: about a fiftieth of the longest run)",
    )  # fmt: skip
    args = parser.parse_args(argv)

    runs = read_runs(args.exp)
    command = f"tse curves {shlex.join(argv)}"
    with replace_file(args.out) as file:
        file.write(curves_page(runs, [num_parameters(run) for run in runs], args.smooth, command))
    print(args.out)
    if args.svg:
        for name, text in svg_files(runs, args.smooth).items():
            with replace_file(args.svg / name) as file:
                file.write(text)
        print(args.svg)


def num_parameters(run: Run) -> int | None:
    """Of the network that its conf describes; None where this version cannot build it."""
    conf = config_of(run)
    if conf is None:
        return None
    try:
        model = build_model(conf.model.name, conf.model.params, conf.sample_rate)
    except (ValueError, TypeError):
        return None
    return sum(parameter.numel() for parameter in model.parameters())
