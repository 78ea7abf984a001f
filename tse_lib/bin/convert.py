"""tse convert: a checkpoint of another project to a packed model of ours."""

import argparse

from tse_lib.config import Deployed, build
from tse_lib.hub import import_checkpoint
from tse_lib.inference.packed import write_packed


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse convert",
        description="Read a public checkpoint strictly (nothing in it is executed, every tensor must fit) and write a "
        "packed model folder. Recognised so far: HiFi_TSE v1 and v2.",
        epilog="example: tse convert checkpoint_best.pt -o hifi_tse_v2",
    )
    parser.add_argument("source", help="the checkpoint")
    parser.add_argument("-o", "--out", required=True, help="the folder to write")
    args = parser.parse_args(argv)
    name, params, sample_rate, weights, told = import_checkpoint(args.source)
    conf = build(
        Deployed,
        {
            "sample_rate": sample_rate,
            "model": {"name": name, "params": params},
            "inference": {"chunk_s": 4.0, "overlap_count": 2},
        },
        args.source,
    )
    readme = f"# {told}\n\nConverted from `{args.source}`. Licence and data: those of the source.\n"
    write_packed(args.out, weights, conf, readme)
    print(f"{args.source}: {told}; {sum(value.numel() for value in weights.values()):,} parameters -> {args.out}")
