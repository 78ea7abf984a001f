"""tse results: collect the scores of an experiment in scores.jsonl, summary.json, RESULTS.md and a report."""

import argparse
from pathlib import Path
from typing import Any

from tse_lib.config import Deployed, build, read_yaml
from tse_lib.evaluation.report import write_report
from tse_lib.evaluation.results import collect, interval, write_results
from tse_lib.models.presets import cost_of


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="tse results",
        description="Collect what tse score has left in <exp>/<set>/scores.part. Writes scores.jsonl and summary.json "
        "in <exp>/<set>, RESULTS.md of all experiments beside <exp>, and the page <exp>/report/index.html.",
        epilog='example: tse results --conf conf/tse.yaml --exp exp/tse --sets test --command "./run.sh"',
    )
    parser.add_argument("--exp", required=True, metavar="DIR", help="the experiment: exp/tse")
    parser.add_argument("--sets", required=True, nargs="+", metavar="SET", help="the sets that were scored")
    parser.add_argument("--conf", help="its configuration; its notes are in the same place as .md (default: none)")
    parser.add_argument("--command", default="", help="the command that makes these results again, to be shown")
    parser.add_argument("--data", default="data", help="folder of the data sets (default: %(default)s)")
    parser.add_argument("--results", default="RESULTS.md", help="what to write (default: %(default)s)")
    parser.add_argument(
        "--published", default="conf/published.yaml", help="published numbers, if there are any (default: %(default)s)"
    )
    args = parser.parse_args(argv)

    exp = Path(args.exp).absolute()
    network = network_of(exp / "config.yaml")
    for name in args.sets:
        summary = collect(exp, name, Path(args.data) / name, args.conf, args.command, network)
        key, label = ("usdr_over_stems", "uSDR") if "stems" in summary else ("si_sdri", "SI-SDRi")
        print(f"{args.exp}/{name}: {label} {interval(summary['metrics'].get(key), 2)} dB, {summary['n']} targets")
    write_results(args.results, exp.parent, args.published)
    write_report(exp, args.sets, args.data)
    print(f"{args.results}; {args.exp}/report/index.html")


def network_of(conf: Path) -> dict[str, Any] | None:
    """Name, parameters and cost of a trained network; None of other systems, whose estimates are scored, too."""
    values = read_yaml(conf) if conf.exists() else {}
    if not {"sample_rate", "model"} <= values.keys():
        return None
    wanted = build(Deployed, {key: values[key] for key in ("sample_rate", "model")}, str(conf))
    return {"name": wanted.model.name, **cost_of(wanted.model.name, wanted.model.params, wanted.sample_rate)}
