"""tse infer: extract every target of a set of mixtures, or separate them all."""

import argparse
from pathlib import Path

from tqdm import tqdm

import tse_lib
from tse_lib import audio
from tse_lib.allocator import keep_freed_memory
from tse_lib.bin.device import add_device_options, device_of
from tse_lib.config import given_dim_of
from tse_lib.data.dataset import RenderedMixtures
from tse_lib.inference.extractor import Extractor
from tse_lib.manifest import job_share
from tse_lib.models import num_sources_of, task_of


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse infer",
        description="Extract every mixture of a rendered set to OUT/<mix_id>.wav (32-bit float), or separate it to "
        "OUT/source1/<mix_id>.wav and so on, or OUT/<stem>/<mix_id>.wav. Only the "
        "checkpoint's own configuration counts here.",
        epilog="example: tse infer --model exp/tse/best.pt --data data/test --out exp/tse/test/wav --job 1/4",
    )
    parser.add_argument("--model", required=True, help="best.pt or a packed model folder")
    parser.add_argument("--data", required=True, help="data/<set> with rendered mixtures")
    parser.add_argument("--out", required=True, help="folder for the estimates")
    parser.add_argument("--job", default="1/1", metavar="J/N", help="do the J-th of N shares (default: all)")
    add_device_options(parser)
    args = parser.parse_args(argv)
    keep_freed_memory()

    model = tse_lib.load(args.model, device_of(args))
    mixtures = RenderedMixtures(args.data, model.sample_rate, given_dim_of(model.conf.model))
    mixtures.refuse_other_task(
        task_of(model.conf.model.name),
        num_sources_of(model.conf.model.name, model.conf.model.params),
        model.conf.inference.source_names,
    )
    sources = mixtures.mixtures[0].source_names
    share = job_share(list(range(len(mixtures))), args.job)
    for index in tqdm(share, desc="infer", unit="mix", dynamic_ncols=True):
        item, rate = mixtures[index], model.sample_rate
        name = f"{item['mix_id']}.wav"
        if isinstance(model, Extractor):
            audio.write(
                Path(args.out) / name, model.extract(item["mixture"], model.as_enrolments(item["enrolls"]), rate), rate
            )
        else:
            for source, estimate in zip(sources, model.separate(item["mixture"], rate), strict=True):
                audio.write(Path(args.out) / source / name, estimate, rate)
