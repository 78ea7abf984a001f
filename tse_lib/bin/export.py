"""tse export: pack a trained model into a folder that can be given away."""

import argparse
from pathlib import Path
from typing import Any

import tse_lib
from tse_lib import audio
from tse_lib.export.network import export_network, quantise
from tse_lib.export.pack import pack
from tse_lib.inference.separator import Separator


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
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="also write network.onnx, the network of a separator between its transforms, for tse separate --backend",
    )
    parser.add_argument(
        "--int8", action="store_true", help="with --onnx: also network.int8.onnx, its convolutions in int8"
    )
    parser.add_argument(
        "--calibrate",
        nargs="+",
        metavar="FILE",
        help="with --int8: audio like that which will be separated, a minute or so",
    )
    args = parser.parse_args(argv)
    if args.int8 and not (args.onnx and args.calibrate):
        raise ValueError("--int8 needs --onnx and --calibrate FILE ...")
    if args.calibrate and not args.int8:
        raise ValueError("--calibrate: goes with --onnx --int8")
    for path in args.calibrate or []:
        audio.info(path)  # a missing one is told before anything is written
    model = tse_lib.load(args.model)
    if args.onnx and not isinstance(model, Separator):
        raise ValueError(f"{args.model}: --onnx is for separators, this network extracts")
    size = pack(model, args.out, args.model, Path(args.summary) if args.summary else None, args.data_licence)
    print(f"{args.out}: {model.conf.model.name}, {size / 2**20:.1f} MiB, read back and equal")
    if args.onnx:
        path, report = export_network(model, Path(args.out))
        print(told(path, report))
        if args.int8:
            print(told(*quantise(model, path, args.calibrate)))


def told(path: Path, report: dict[str, Any]) -> str:
    return (
        f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {report['null_db']} dB from torch; CPU seconds for "
        f"{report['frames']} frames: torch {report['torch_cpu_s']}, onnxruntime {report['onnxruntime_cpu_s']}"
    )
