"""A table of experiments that share networks: one row a network, a column a kind of training.

    tools/compare.py "1000 steps=exp/{}" "250 CPU seconds=exp/{}_250s" --names conv_tasnet dprnn [--set test]

Run it in a recipe's folder after stage 6. Prints Markdown: parameters, GMAC/s and CPU seconds a step (of the first
column), and for each column the steps, the CPU time and SI-SDRi with SDR, SIR and SAR of the set. A recipe's RESULTS.md
begins with `conf/results.md`, so this table may stand there.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tse_lib.evaluation.results import interval, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("columns", nargs="+", metavar="TITLE=EXP", help="the experiment's folder, {} for the name")
    parser.add_argument("--names", nargs="+", required=True, help="what stands for {}")
    parser.add_argument("--set", default="test", help="the scored set (default: %(default)s)")
    args = parser.parse_args()

    columns = [column.partition("=")[::2] for column in args.columns]
    head = ["network", "parameters", "GMAC/s", "CPU s a step"]
    head += [
        f"{title}: {what}" for title, _ in columns for what in ("steps, CPU time", "SI-SDRi (dB)", "SDR / SIR / SAR")
    ]
    rows = []
    for name in args.names:
        summaries = [read(Path(folder.replace("{}", name)) / args.set / "summary.json") for _, folder in columns]
        first = summaries[0]
        row = [name, f"{first['network']['params']:,}", f"{first['network']['gmac_per_s']:.3g}"]
        rows.append([*row, f"{first['training']['cpu_s']:.2f}", *(cell for one in summaries for cell in cells(one))])
    print("\n".join(table(head, rows)))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def cells(summary: dict[str, Any]) -> list[str]:
    training, metrics = summary["training"], summary["metrics"]
    parts = " / ".join(interval(metrics.get(name), 1, limits=False) for name in ("sdr", "sir", "sar"))
    cost = f"{training['steps']}, {training['steps'] * training['cpu_s']:.0f} s"
    return [cost, interval(metrics.get("si_sdri"), 2), parts]


if __name__ == "__main__":
    main()
