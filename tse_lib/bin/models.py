"""tse models: the networks and their presets."""

import argparse
import json

from tse_lib.models.presets import PRESETS, describe


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse models",
        description="List the networks at their published sizes: parameters, multiply-accumulates per second of audio.",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")
    args = parser.parse_args(argv)
    rows = [describe(name) for name in PRESETS]
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    width = max(len(row["preset"]) for row in rows)
    for row in rows:
        print(
            f"{row['name']:<12} {row['preset']:<{width}} {row['task']:<8} {row['params']:>12,}  "
            f"{row['gmac_per_s']:>7.2f} GMAC/s  {row['sample_rate']:>6} Hz  "
            f"{'causal' if row['causal'] else 'not causal':<10}  {row['paper']}"
        )
