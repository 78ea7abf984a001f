"""tse infer: extract every target of a set of mixtures."""

import argparse
from pathlib import Path

from tqdm import tqdm

import tse_lib
from tse_lib import audio
from tse_lib.bin.device import add_device_options, device_of
from tse_lib.data.dataset import RenderedMixtures
from tse_lib.manifest import job_share


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse infer",
        description="Extract every mixture of a rendered set to OUT/<mix_id>.wav (32-bit float). Only the "
        "checkpoint's own configuration counts here.",
        epilog="example: tse infer --model exp/tse/best.pt --data data/test --out exp/tse/test/wav --job 1/4",
    )
    parser.add_argument("--model", required=True, help="best.pt or a packed model folder")
    parser.add_argument("--data", required=True, help="data/<set> with rendered mixtures")
    parser.add_argument("--out", required=True, help="folder for the estimates")
    parser.add_argument("--job", default="1/1", metavar="J/N", help="do the J-th of N shares (default: all)")
    add_device_options(parser)
    args = parser.parse_args(argv)

    extractor = tse_lib.load(args.model, device_of(args))
    mixtures = RenderedMixtures(args.data, extractor.sample_rate)
    share = job_share(list(range(len(mixtures))), args.job)
    for index in tqdm(share, desc="infer", unit="mix", dynamic_ncols=True):
        item = mixtures[index]
        estimate = extractor.extract(item["mixture"], item["enrolls"], extractor.sample_rate)
        audio.write(Path(args.out) / f"{item['mix_id']}.wav", estimate, extractor.sample_rate)
