"""Which conditioning learns what in equal CPU time, and does it listen to its enrolment? On the mini recipe.

    tools/matrix.py [--backbones hifi_tse tf_gridnet] [--kinds usef film …] [--cpu_s 90] [--jobs 2]

Run it after stages 1 and 2 of egs/mini/tse1, or of another recipe (--recipe). Backbones are made extractors by each
kind of conditioning (`conditioned`) and trained on two talkers in quiet, one process and one thread each, for as many
steps as `--cpu_s` seconds of a core allow, measured before. Then all present targets of the test mixtures, each with
the first interferer alone, are extracted twice: with their own enrolment, and with one of the interferer, an utterance
that is not in the mixture. Prints a table of one seed, and one of the `--best` pairs with all seeds.

    SI-SDRi     with the own enrolment
    confused    with the own enrolment: share of outputs that are nearer (SI-SDR) to the interferer than to the target
    swapped     the same with the interferer's enrolment. A network that listens has a confused of 0 % and a swapped of
                100 %; of one that does not, both are the same

Intervals: 95 %, bootstrap over the targets' talkers, and over seeds. A conf exp/matrix/<backbone>_<kind>.yaml that is
there is kept, and with it the number of steps; what is finished is not repeated.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tse_lib import audio, checkpoint
from tse_lib.config import Config, build, read_yaml
from tse_lib.data.dataset import DrawnMixtures, RenderedMixtures, collate, load_source, to_batch
from tse_lib.files import replace_file
from tse_lib.manifest import Mixture, Source, audio_path, by_speaker, read_data_dir
from tse_lib.metrics.presence import is_confused
from tse_lib.metrics.sdr import si_sdr
from tse_lib.models import build_model
from tse_lib.models.conditioned import NO_SPECTRUM
from tse_lib.nn.conditioning import OF_VECTORS
from tse_lib.rng import rng
from tse_lib.simulation.sample import read_corpus
from tse_lib.training.state import new_state
from tse_lib.training.steps import STEPS, new_run

MINI = Path(__file__).parents[1] / "egs" / "mini"
KINDS = ("usef", "film", "adaln", "concat", "multiply", "tf_map", "lext", "usef+film")
BACKBONES: dict[str, dict[str, Any]] = {  # at 8 kHz; smaller than those of egs/mini: more steps fit in
    "conv_tasnet": {
        "num_filters": 64, "kernel_size": 32, "stride": 16, "bottleneck_dim": 32, "hidden_dim": 64, "skip_dim": 32,
        "num_blocks": 6, "num_repeats": 2,
    },
    "dprnn": {
        "num_filters": 64, "kernel_size": 32, "stride": 16, "bottleneck_dim": 32, "hidden_dim": 32, "chunk_size": 24,
        "num_blocks": 2,
    },
    "tf_gridnet": {
        "n_fft": 256, "hop_length": 128, "num_blocks": 1, "emb_dim": 16, "emb_ks": 4, "emb_hs": 4, "lstm_hidden": 24,
        "num_heads": 2, "qk_dim": 2,
    },
    "hifi_tse": {
        "n_fft": 256, "hop_length": 128, "bands": 18, "feature_dim": 16, "lstm_hidden": 24, "num_heads": 1,
        "num_blocks": 2, "attention": False, "normalize": True, "levels": True,
    },
}  # fmt: skip
IN_SAMPLES = ("n_fft", "hop_length", "kernel_size", "stride")  # as many more at a higher sample rate
PAIRS = [
    (backbone, kind) for backbone in BACKBONES for kind in KINDS if kind != "tf_map" or backbone not in NO_SPECTRUM
]
OPTIONS = {"lext": {"prefix_s": 2.0}}  # as long as the enrolments of training
SPEAKER = {"kind": "ecapa", "embedding_dim": 64, "dim": 64}  # embeddings act before every block
NAMES_SPEAKERS = {"name": "speaker_cross_entropy", "weight": 0.5}  # without it embeddings stay alike for 90 s
# What takes least practice.
EASIER = {"num_talkers": 2, "noise_probability": 0.0, "rir_probability": 0.0, "target_absent": 0.0}
TRIED_STEPS = 12  # of which the first 2 are not counted
METRICS = ("si_sdri", "confused", "swapped")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--backbones",
        nargs="+",
        default=["hifi_tse", "tf_gridnet"],
        choices=BACKBONES,
        help="(default: hifi_tse tf_gridnet)",
    )
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="(default: all)")
    parser.add_argument("--cpu_s", type=float, default=90.0, help="of one training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="of the best (default: %(default)s)")
    parser.add_argument("--best", type=int, default=3, help="pairs with all seeds (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time (default: %(default)s)")
    parser.add_argument("--recipe", type=Path, default=MINI / "tse1", help="(default: egs/mini/tse1)")
    args = parser.parse_args()

    os.chdir(args.recipe)  # paths of the data sets are relative to it
    torch.set_num_threads(1)
    pairs = [pair for pair in PAIRS if pair[0] in args.backbones and pair[1] in args.kinds]
    for pair in pairs:
        write_conf(*pair, args.cpu_s)
    with ThreadPoolExecutor(args.jobs) as pool:
        found = dict(zip(pairs, pool.map(lambda pair: [measure(*pair, 0)], pairs), strict=True))
        print(table(found), flush=True)
        best = sorted(pairs, key=lambda pair: -np.mean([line["si_sdri"] for line in found[pair][0]]))[: args.best]
        more = [(pair, seed) for seed in range(1, args.seeds) for pair in best]
        for (pair, _), lines in zip(more, pool.map(lambda run: measure(*run[0], run[1]), more), strict=True):
            found[pair].append(lines)
    if more:
        print(f"\n{table({pair: found[pair] for pair in best})}")


# ----------------------------------------------------------------------------------------------------------- training


def conf_of(backbone: str, kind: str) -> dict[str, Any]:
    """conf/tse.yaml with easier mixtures and another model."""
    own = read_yaml("conf/tse.yaml")
    kinds, every = kind.split("+"), list(range(BACKBONES[backbone]["num_blocks"]))
    embeds = bool(set(kinds) & set(OF_VECTORS))
    sizes = BACKBONES[backbone]
    sizes = sizes | {key: sizes[key] * own["sample_rate"] // 8000 for key in IN_SAMPLES if key in sizes}
    options = {**OPTIONS, **{each: {"at": every} for each in OF_VECTORS}}
    params = {
        "backbone": backbone,
        "backbone_params": sizes,
        "conditioning": [{"kind": each, **options.get(each, {})} for each in kinds],
        **({"speaker": SPEAKER} if embeds else {}),
    }
    return {
        **own,
        "simulation": own["simulation"] | EASIER,
        "model": {"name": "conditioned", "params": params},
        "loss": [term for term in own["loss"] if term.get("when") != "absent"] + [NAMES_SPEAKERS] * embeds,
        "train": own["train"] | {"lr": 2e-3, "warmup_steps": 50, "ema_decay": 0.99},
    }


def write_conf(backbone: str, kind: str, cpu_s: float) -> None:
    """exp/matrix/<backbone>_<kind>.yaml, if it is not there, with the steps that the time allows."""
    path = Path(f"exp/matrix/{backbone}_{kind}.yaml")
    if path.exists():
        return
    values = conf_of(backbone, kind)
    steps = round(cpu_s / step_cpu_s(build(Config, copy.deepcopy(values), str(path))))
    values["train"] |= {"max_steps": steps, "valid_every": steps, "save_every": steps, "log_every": 50}
    with replace_file(path) as file:
        yaml.safe_dump(values, file, sort_keys=False)


def step_cpu_s(conf: Config) -> float:
    """CPU seconds of a training step, drawing included."""
    device = torch.device("cpu")
    data = DrawnMixtures(read_corpus(Path("data/train"), Path("data/noise_train")), conf)
    state = new_state(conf, device, data.speakers)
    run, size = new_run(conf, state, device), conf.train.batch_size
    state.model.train()
    seconds = []
    for step in range(TRIED_STEPS):
        begin = time.process_time()
        group = [to_batch([data[step * size + place] for place in range(size)], device)]
        STEPS[conf.train.step](state, run, group, {"present": size, "absent": 0})
        seconds.append(time.process_time() - begin)
    return statistics.median(seconds[2:])


def measure(backbone: str, kind: str, seed: int) -> list[dict[str, Any]]:
    """Train and test; what every present target of the test mixtures gave, a dictionary each."""
    exp = Path(f"exp/matrix/{backbone}_{kind}_{seed}")
    if not (exp / "test.jsonl").exists():
        words = ["train", "--conf", f"exp/matrix/{backbone}_{kind}.yaml", "--noise", "noise_train", "--nproc", "1"]
        words += ["--exp", str(exp), "--set", f"seed={seed}", "--device", "cpu"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tse_lib.bin.main", *words]
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
        saved = checkpoint.load(exp / "best.pt")
        conf = saved["config"]
        model = build_model(conf["model"]["name"], conf["model"]["params"], conf["sample_rate"]).eval()
        model.load_state_dict(saved["modules"]["model"])
        cpu_s = training_cpu_s(exp)
        lines = [{**line, "cpu_s": cpu_s} for line in tested(model, "data/test", conf["sample_rate"])]
        with replace_file(exp / "test.jsonl") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    return [json.loads(line) for line in (exp / "test.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------------ testing


@torch.no_grad()
def tested(model: Any, test: str, sample_rate: int) -> list[dict[str, Any]]:
    """Every present target of rendered mixtures, out of it and the first interferer, with the enrolments of both.

    The others and the noise are left out, as in training.
    """
    rendered, lines = RenderedMixtures(test, sample_rate), []
    for item, mixture in zip(rendered, rendered.mixtures, strict=True):
        if not mixture.target_present:
            continue
        own, other = item["enrolls"][0], other_utterance(test, mixture)
        other *= own.square().mean().sqrt() / other.square().mean().sqrt()
        target = item["target"][0].numpy()
        interferer, _ = audio.read(audio_path(test, "interferer1", mixture.mix_id))
        mixed = target + interferer
        batches = [collate([{**item, "mixture": torch.from_numpy(mixed), "enrolls": [one]}]) for one in (own, other)]
        with_own, with_other = (extracted(model, batch) for batch in batches)
        lines.append(
            {
                "mix_id": mixture.mix_id,
                "target_spk": mixture.target_spk,
                "si_sdri": si_sdr(target, with_own) - si_sdr(target, mixed),
                "confused": is_confused(target, [interferer], with_own),
                "swapped": is_confused(target, [interferer], with_other),
            }
        )
    return lines


def extracted(model: Any, batch: dict[str, Any]) -> np.ndarray:
    return model(batch["mixture"], model.encode(batch["enroll"], batch["lengths"]))[0, 0, 0].numpy()


def other_utterance(test: str, mixture: Mixture) -> torch.Tensor:
    """One of the first interferer that is not in the mixture."""
    utterances = read_data_dir(test)
    wanted, mixed = mixture.talkers[1].spk_id, {source.utt_id for source in mixture.talkers}
    left = [utt for utt in (utterances[n] for n in by_speaker(utterances)[wanted]) if utt.utt_id not in mixed]
    one = left[int(rng(0, "matrix", mixture.mix_id).integers(len(left)))]
    return load_source(Source(one.path, one.start, one.num_samples, one.utt_id), mixture.sample_rate)


def training_cpu_s(exp: Path) -> float:
    """CPU seconds of all steps, as the training's reports tell them."""
    reports = [json.loads(line) for line in (exp / "log" / "train.jsonl").read_text().splitlines()]
    begins = [0, *(report["step"] for report in reports)]
    return sum(report["cpu_s"] * (report["step"] - begin) for begin, report in zip(begins, reports, strict=False))


# -------------------------------------------------------------------------------------------------------------- table


def table(found: dict[tuple[str, str], list[list[dict[str, Any]]]]) -> str:
    """Markdown, a line a pair, of what each seed gave."""
    seeds = {len(each) for each in found.values()}
    head = ["backbone", "conditioning", "parameters", "steps", "CPU s", "SI-SDRi (dB)", "confused (%)", "swapped (%)"]
    lines = [f"| {' | '.join(head + ['SI-SDRi of each seed'] * (seeds != {1}))} |"]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    for (backbone, kind), each in found.items():
        conf = read_yaml(f"exp/matrix/{backbone}_{kind}.yaml")
        model = build_model("conditioned", conf["model"]["params"], conf["sample_rate"])
        cells = [backbone, kind, f"{sum(one.numel() for one in model.parameters()):,}", conf["train"]["max_steps"]]
        cells.append(f"{np.mean([lines_of[0]['cpu_s'] for lines_of in each]):.0f}")
        talkers = np.unique([line["target_spk"] for line in each[0]], return_inverse=True)[1]
        for metric in METRICS:
            values = np.array([[line[metric] for line in lines_of] for lines_of in each], np.float64)
            values, decimals = (values, 2) if metric == "si_sdri" else (100 * values, 0)
            low, high = interval(values, talkers)
            cells.append(f"{values.mean():.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]")
        if seeds != {1}:
            cells.append(", ".join(f"{np.mean([line['si_sdri'] for line in lines_of]):.2f}" for lines_of in each))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def interval(values: np.ndarray, talkers: np.ndarray) -> tuple[float, float]:
    """Of the mean of (seeds, mixtures): bootstrap over seeds and over the mixtures' talkers (mixtures,)."""
    draw, means = rng(0, "matrix"), []
    of_each = [np.flatnonzero(talkers == talker) for talker in range(talkers.max() + 1)]
    for _ in range(2000):
        columns = np.concatenate([of_each[talker] for talker in draw.integers(0, len(of_each), len(of_each))])
        means.append(values[draw.integers(0, len(values), len(values))][:, columns].mean())
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main()
