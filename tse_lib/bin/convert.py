"""tse convert: a checkpoint of another project to a packed model of ours, or back."""

import argparse
from pathlib import Path

from tse_lib.hub import IMPORTERS, export_checkpoint, import_checkpoint
from tse_lib.hub.public import PUBLIC
from tse_lib.inference.packed import read_packed, write_packed


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse convert",
        description="Read a public checkpoint strictly (nothing in it is executed, every tensor must fit) and write a "
        f"packed model folder. Layouts: {', '.join(IMPORTERS)}. With --to, write a packed model in one of them.",
        epilog="example: tse convert sepformer-wsj02mix/ -o sepformer; tse convert sepformer --to speechbrain -o back",
    )
    parser.add_argument(
        "source", help="file, folder or zip archive; a folder of Hugging Face's cache, or one of these that is in it: "
        f"{', '.join(PUBLIC)}",
    )  # fmt: skip
    parser.add_argument("-o", "--out", required=True, help="the folder to write; with --to, the file or folder")
    parser.add_argument("--preset", help="what the network is, where the checkpoint does not say it (see tse models)")
    parser.add_argument("--config", help="the other project's own configuration, where it is not beside the checkpoint")
    parser.add_argument("--sample_rate", type=int, help="in Hz, where nothing else says it, or says it wrongly")
    parser.add_argument("--to", metavar="LAYOUT", help="the other way: write the packed model SOURCE in this layout")
    args = parser.parse_args(argv)
    if Path(args.source).exists() and Path(args.source).resolve() == Path(args.out).resolve():
        raise ValueError(f"{args.out}: the output would overwrite the source")
    if args.to:
        back(args)
        return
    found = import_checkpoint(args.source, args.preset, args.config, args.sample_rate)
    readme = f"# {found.told}\n\nConverted from `{args.source}`. Licence and data: those of the source.\n"
    write_packed(args.out, found.weights, found.conf, readme)
    count = sum(value.numel() for value in found.weights.values())
    print(f"{args.source}: {found.told}; {found.name}, {found.sample_rate} Hz, {count:,} parameters -> {args.out}")


def back(args: argparse.Namespace) -> None:
    """A packed model of ours in a published layout."""
    for option in ("preset", "config", "sample_rate"):
        if getattr(args, option):
            raise ValueError(f"--{option}: goes with reading another project's checkpoint, not with --to")
    weights, conf = read_packed(Path(args.source))
    export_checkpoint(args.to, args.out, conf.model.name, conf.model.params, conf.sample_rate, weights)
    print(f"{args.source}: {conf.model.name} in the layout of {args.to} -> {args.out}")
