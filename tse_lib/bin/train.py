"""tse train: train an experiment, or go on with one."""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

from tse_lib import distributed
from tse_lib.bin.device import add_device_options, device_of
from tse_lib.config import Config, Layers, Stems, given_dim_of, load_config
from tse_lib.data.layers import TrainingData
from tse_lib.evaluation.lr_finder import lr_finder_page
from tse_lib.files import replace_file
from tse_lib.manifest import read_layered, read_mixtures
from tse_lib.simulation.sample import Corpus, read_corpus
from tse_lib.simulation.stems import StemCorpus, read_stem_corpus
from tse_lib.training.guards import REQUEUE_EXIT, StopSignal
from tse_lib.training.lr_finder import RangeTest, find_lr
from tse_lib.training.trainer import train


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="tse train",
        description="Train the model of a conf. Started again after any kill, it goes on from exp/last.pt and ends "
        "with bit-identical weights. On SIGTERM or SIGUSR1 it finishes the step, saves, and exits with 75: start me "
        "again.",
        epilog="example: tse train --conf conf/tse.yaml --data data --train train --noise noise_train --dev dev "
        "--exp exp/tse --set train.max_steps=2000",
    )
    parser.add_argument("--conf", required=True)
    parser.add_argument("--exp", required=True, help="folder for checkpoints and logs")
    add_data_options(parser)
    parser.add_argument("--dev", default="dev", help="rendered mixtures to choose the best by (default: %(default)s)")
    add_device_options(parser)
    parser.add_argument("--nproc", default="1", help="processes on this machine; auto: one a GPU, else one a CPU core")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override: train.lr=1e-4")
    parser.add_argument("--find_lr", action="store_true", help="train nothing: raise the learning rate from step to "
                        "step, suggest one, and write exp/lr_finder/")  # fmt: skip
    parser.add_argument("--lr_range", nargs=2, type=float, default=(1e-7, 1.0), metavar=("LOW", "HIGH"),
                        help="of --find_lr (default: 1e-7 1)")  # fmt: skip
    parser.add_argument("--lr_steps", type=int, default=300, help="of --find_lr (default: %(default)s)")
    args = parser.parse_args(argv)

    distributed.end_with_launcher()
    conf = load_config(args.conf, args.set)
    nproc = num_processes(args.nproc, args.device, conf.train.batch_size)
    if nproc > 1 and "WORLD_SIZE" not in os.environ:
        return run_processes(nproc, argv)
    corpus = corpus_of(args, conf)
    dev_dir = Path(args.data) / args.dev
    refuse_dev_in_train(corpus, dev_dir)
    device = device_of(args)
    distributed.start(device)
    try:
        if args.find_lr:
            low, high = args.lr_range
            found = find_lr(conf, corpus, device, low, high, args.lr_steps)
            if distributed.is_main():
                write_range_test(found, Path(args.exp) / "lr_finder", f"tse train {shlex.join(argv)}")
            return 0
        state = train(conf, corpus, str(dev_dir), args.exp, device)
    finally:
        distributed.stop()
    if state.stopped_by:
        return REQUEUE_EXIT
    if int(os.environ.get("RANK", "0")) == 0:
        took = f"{state.step} steps in {state.seconds:.0f} s"
        measure = "SDR" if conf.simulation.source_names else "SI-SDRi"
        print(f"{args.exp}: {took}; best {measure} on {args.dev}: {state.best:.2f} dB")
    return 0


def write_range_test(found: RangeTest, folder: Path, command: str) -> None:
    """lr_finder.json and lr_finder.html, and what they suggest.

    Raises:
        ValueError: not even two steps had a finite loss.
    """
    if len(found.lr) < 2:
        raise ValueError(
            f"--find_lr: {found.ended}, after {len(found.lr)} steps; begin with a lower --lr_range, or tse check"
        )
    suggestions = {"steepest": found.steepest, "tenth of the lowest": found.tenth}
    marks = {name: rate for name, rate in suggestions.items() if rate}
    with replace_file(folder / "lr_finder.json") as file:
        json.dump(dataclasses.asdict(found) | {"command": command}, file)
    with replace_file(folder / "lr_finder.html") as file:
        file.write(lr_finder_page(found.lr, found.loss, found.smooth, marks, command))
    print(f"{folder}/lr_finder.html: {len(found.lr)} steps{f', {found.ended}' if found.ended else ''}")
    if found.steepest and found.tenth:
        print(f"train.lr: {found.steepest:.1e} (where the loss falls fastest), {found.tenth:.1e} (a tenth of where it "
              "is lowest)")  # fmt: skip
    else:
        print("no suggestion: the loss does not fall; more --lr_steps, or a lower --lr_range")


def num_processes(wanted: str, device: str, batch_size: int) -> int:
    """auto: one a GPU, else one a core; fewer where the batch would not divide evenly.

    Raises:
        ValueError: neither "auto" nor a number that divides the batch, or more than there are GPUs.
    """
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    most = max(1, torch.cuda.device_count()) if on_gpu else len(os.sched_getaffinity(0))
    if ":" in device:
        most = 1
    if wanted == "auto":
        return max(number for number in range(1, min(most, batch_size) + 1) if batch_size % number == 0)
    if not wanted.isdecimal() or int(wanted) < 1 or batch_size % int(wanted):
        raise ValueError(f"--nproc {wanted}: auto, or a number that divides train.batch_size {batch_size}")
    if on_gpu and int(wanted) > most:
        raise ValueError(
            f"--nproc {wanted}: each process takes a GPU, and --device {device} is {most} here; a recipe has as "
            f"many as its option --ngpu {wanted} says"
        )
    return int(wanted)


def run_processes(nproc: int, argv: list[str]) -> int:
    """Start `nproc` copies of this command, each with its share of the cores, and wait for them.

    They are told of each other as torchrun would tell them, so torchrun may start them, too (on several machines).
    SIGTERM and SIGUSR1 are passed on. When one fails, the others have a few seconds to say why, too.
    """
    own = [word for place, word in enumerate(argv) if "--nproc" not in argv[max(0, place - 1) : place + 1]]
    own = [word for word in own if not word.startswith("--nproc=")]
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # of a free port
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // nproc))),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is here: rank 0 must not open one
        "WORLD_SIZE": str(nproc),
        "TSE_LAUNCHER": str(os.getpid()),
    }
    command = [sys.executable, "-m", "tse_lib.bin.main", "train", *own]
    children: list[subprocess.Popen] = []

    def hand_on(number: int) -> None:
        for child in children:
            child.send_signal(number)

    with StopSignal(hand_on):
        for rank in range(nproc):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            children.append(subprocess.Popen(command, env=environment | ranks))
        try:
            return wait_for(children)
        finally:
            for child in children:
                child.kill()


def wait_for(children: list[subprocess.Popen]) -> int:
    """The exit code of the first that failed, else that of all of them."""
    running = list(children)
    while running and not any(child.returncode for child in children):
        time.sleep(0.1)
        running = [child for child in running if child.poll() is None]
    failed = next((child.returncode for child in children if child.returncode), 0)
    if failed and failed != REQUEUE_EXIT:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and any(child.poll() is None for child in children):
            time.sleep(0.1)
    elif failed:
        for child in children:
            child.wait()
    return failed if failed >= 0 else 128 - failed


def add_data_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", default="data", help="folder of the data sets (default: %(default)s)")
    add("--train", nargs="+", default=["train"], help="speech to draw mixtures from (default: train)")
    add("--noise", nargs="+", default=[], help="noise to draw from, as noise_train (default: none)")
    add("--rirs", nargs="+", default=[], help="room responses to draw from, as rir_train (default: none)")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number above 0 expected, got {text!r}")
    return int(text)


def corpus_of(args: argparse.Namespace, conf: Config) -> TrainingData:
    """What training items are drawn from: data sets, or ready-made mixtures where the conf has a goal for those."""
    data = Path(args.data)
    if isinstance(conf.simulation, (Layers, Stems)) and (args.noise or args.rirs):
        key, what = ("goal", "layered mixtures") if isinstance(conf.simulation, Layers) else ("stems", "stems")
        raise ValueError(f"--noise, --rirs: not with simulation.{key}; {what} are as the corpus made them")
    if isinstance(conf.simulation, Stems):
        return read_stem_corpus([data / name for name in args.train], conf.simulation, conf.sample_rate)
    if isinstance(conf.simulation, Layers):
        return [mix for name in args.train for mix in read_layered(data / name)]
    speech, noise, rirs = ([data / name for name in names] for names in (args.train, args.noise, args.rirs))
    return read_corpus(speech, noise, rirs, conf.simulation.task, given_dim_of(conf.model))


def refuse_dev_in_train(corpus: TrainingData, dev_dir: Path) -> None:
    """Choosing the best by talkers, noises or rooms that were trained on would choose the one that remembers best.

    Of ready-made mixtures only the mixtures, or the utterances in them, must differ: what else the sets share (in
    WSJ0-2mix the talkers) is how the corpus is, was told by the prepare stage, and cannot be helped here.
    """
    mixtures = read_mixtures(dev_dir / "mixtures.jsonl")
    if isinstance(corpus, StemCorpus):
        both = sorted({stem.origin for mixture in mixtures for stem in mixture.stems} & set(corpus.names))
        if both:
            raise ValueError(f"{dev_dir}: {len(both)} of its tracks are trained on ({both[0]}…); give another set")
        return
    if not isinstance(corpus, Corpus):
        both = sorted({mix.mix_id for mix in corpus} & {one.ready.mix.utt_id for one in mixtures if one.ready})
        if both:
            raise ValueError(f"{dev_dir}: {len(both)} of its mixtures are trained on ({both[0]}…); give another set")
        return
    utterances = {source.utt_id for mixture in mixtures if mixture.ready for source in mixture.talkers}
    both = sorted(utterances & {utt.utt_id for utt in corpus.speech}) if utterances else []
    if both:
        raise ValueError(
            f"{dev_dir}: {len(both)} of its utterances are trained on ({both[0]}…); leave them out of train"
        )
    mixtures = [mixture for mixture in mixtures if not mixture.ready]
    sources = [source for mixture in mixtures for source in (*mixture.talkers, *mixture.enrolls)]
    noises = [mixture.noise for mixture in mixtures if mixture.noise]
    noises += [source.noise for source in sources if source.noise]
    rirs = [source.rir for source in sources if source.rir]
    used = {
        "talkers": {source.spk_id for source in sources},
        "noises": {noise.group or noise.utt_id for noise in noises},
        "rooms": {rir.room or rir.utt_id for rir in rirs},
    }
    trained = {
        "talkers": set(corpus.speakers),
        "noises": {utt.group or utt.utt_id for utt in corpus.noise},
        "rooms": {utt.group or utt.utt_id for utt in corpus.all_rirs},
    }
    for what, names in used.items():
        both = sorted(names & trained[what])
        if both:
            way = "split by speaker" if what == "talkers" else "split by group"
            raise ValueError(f"{dev_dir}: {len(both)} of its {what} are trained on ({', '.join(both[:3])}…); {way}")
