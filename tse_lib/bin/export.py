"""tse export: pack a trained model into a folder that can be given away."""

import argparse
from pathlib import Path

import tse_lib
from tse_lib.export.pack import pack


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse export",
        description="Pack a checkpoint into a folder of model.safetensors, model.yaml and README.md, load it again and "
        "compare every weight. `tse extract --model FOLDER` uses it; the folder holds no code.",
        epilog="example: tse export --model exp/tse/best.pt --out exp/tse/model --summary exp/tse/test/summary.json",
    )
    parser.add_argument("--model", required=True, help="best.pt")
    parser.add_argument("--out", required=True, help="the folder to write")
    parser.add_argument("--summary", help="summary.json of a scored set: its figures go into the README")
    parser.add_argument("--data_licence", default="not stated", help="licence of the training data, for the README")
    args = parser.parse_args(argv)
    extractor = tse_lib.load(args.model)
    size = pack(extractor, args.out, args.model, Path(args.summary) if args.summary else None, args.data_licence)
    print(f"{args.out}: {extractor.conf.model.name}, {size / 2**20:.1f} MiB, read back and equal")
