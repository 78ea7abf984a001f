"""tse train: train an experiment, or go on with one."""

import argparse
import os
from pathlib import Path

import torch

from tse_lib import distributed
from tse_lib.config import load_config
from tse_lib.manifest import read_mixtures
from tse_lib.simulation.sample import Corpus, read_corpus
from tse_lib.training.trainer import pick_device, train


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse train",
        description="Train the model of a conf. Started again after any kill, it goes on from exp/last.pt and ends with "
        "bit-identical weights. Several processes: torchrun --nproc_per_node N -m tse_lib.bin.main train …",
        epilog="example: tse train --conf conf/tse.yaml --data data --train train --noise noise_train --dev dev "
        "--exp exp/tse --set train.max_steps=2000",
    )
    parser.add_argument("--conf", required=True)
    parser.add_argument("--exp", required=True, help="folder for checkpoints and logs")
    add_data_options(parser)
    parser.add_argument("--dev", default="dev", help="set of rendered mixtures to choose the best by (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override: train.lr=1e-4")
    args = parser.parse_args(argv)

    conf = load_config(args.conf, args.set)
    corpus = corpus_of(args)
    dev_dir = Path(args.data) / args.dev
    refuse_dev_talkers(corpus, dev_dir)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    distributed.start(device)
    try:
        state = train(conf, corpus, str(dev_dir), args.exp, device)
    finally:
        distributed.stop()
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{args.exp}: {state.step} steps in {state.seconds:.0f} s; best SI-SDRi on {args.dev}: {state.best:.2f} dB")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="data", help="folder of the data sets (default: %(default)s)")
    parser.add_argument("--train", default="train", help="speech to draw mixtures from (default: %(default)s)")
    parser.add_argument("--noise", help="noise to draw from, as noise_train (default: none)")
    parser.add_argument("--rirs", help="room responses to draw from, as rir_train (default: none)")


def corpus_of(args: argparse.Namespace) -> Corpus:
    data = Path(args.data)
    return read_corpus(
        data / args.train, data / args.noise if args.noise else None, data / args.rirs if args.rirs else None
    )


def refuse_dev_talkers(corpus: Corpus, dev_dir: Path) -> None:
    """Choosing the best by talkers that were trained on would choose the one that remembers best."""
    talkers = {
        source.spk_id for mixture in read_mixtures(dev_dir / "mixtures.jsonl") for source in (*mixture.talkers, *mixture.enrolls)
    }
    both = sorted(talkers & set(corpus.speakers))
    if both:
        raise ValueError(f"{dev_dir}: {len(both)} of its talkers are trained on ({', '.join(both[:3])}…); split by speaker")
