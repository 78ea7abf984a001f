"""Does it help? Variants of the mini recipe's conf/tse.yaml that differ in one thing each, with several seeds.

    tools/ablation.py curriculum [--seeds 0 1 2] [--steps 2500] [--jobs 2]     docs/results/ablation_mini.md
    tools/ablation.py hifi_tse --seeds 0 --steps 1200                          docs/results/ablation_hifi_tse.md

Run it after stages 1 and 2 of egs/mini/tse1. Trains each variant, one process each, and scores the averaged and the raw
weights of the last step on the test mixtures (SI-SDRi of present targets). Prints a table: means over the seeds, and
95 % intervals of the differences to the first variant, paired by seed and mixture (bootstrap over both; with one seed,
how much another one would have changed is not in them). A training that is finished is not repeated.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
from tqdm import tqdm

from tse_lib import checkpoint
from tse_lib.data.dataset import RenderedMixtures, collate
from tse_lib.losses.sdr import neg_si_sdr
from tse_lib.models import build_model
from tse_lib.rng import rng

RECIPE = Path(__file__).parents[1] / "egs" / "mini" / "tse1"
EASY = (  # two talkers, a high SNR that falls, the target always there
    'curriculum=[{{"until_step": {fifth}, "simulation": '
    '{{"num_talkers": 2, "snr_db": {{"ramp": [[20, 30], [5, 20]]}}, "target_absent": 0.0}}}}]'
)
ABLATIONS = {  # name -> variant -> settings beside conf/tse.yaml; the others are held against the first variant
    "curriculum": {"plain": [], "curriculum": [EASY]},
    "hifi_tse": {
        "FiLM, LSTMs": [],
        "adaptive norms": ["model.params.film=false", "model.params.adaln=true"],
        "scales 1, 2, 4": ["model.params.enroll_scales=[1, 2, 4]"],
        "Mamba along time": ["model.params.time_rnn=mamba"],
        "larger LSTMs": ["model.params.lstm_hidden=48"],
        "longer segments": ["simulation.segment_s=2.0", "train.batch_size=2"],
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ablation", choices=ABLATIONS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--steps", type=int, default=2500, help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time (default: %(default)s)")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="(default: egs/mini/tse1)")
    args = parser.parse_args()

    variants = ABLATIONS[args.ablation]
    runs = {
        (name, seed): args.recipe / "exp" / f"abl_{args.ablation}{number}_{seed}"
        for number, name in enumerate(variants)
        for seed in args.seeds
    }
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda run: train(args.recipe, runs[run], variants[run[0]], run[1], args.steps), runs))
    torch.set_num_threads(1)
    found = {
        (name, weights): np.array([improvements(args.recipe, runs[name, seed], weights) for seed in args.seeds])
        for name in variants
        for weights in ("raw", "averaged")
    }
    print(table(found, {name: cost(runs[name, args.seeds[0]]) for name in variants}))


def train(recipe: Path, exp: Path, settings: list[str], seed: int, steps: int) -> None:
    every = [f"seed={seed}", f"train.max_steps={steps}", "train.valid_every=500"]
    words = ["--conf", "conf/tse.yaml", "--noise", "noise_train", "--dev", "dev", "--exp", str(exp.relative_to(recipe))]
    for setting in [*every, *(setting.format(fifth=steps // 5) for setting in settings)]:
        words += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tse_lib.bin.main", "train", *words]
    subprocess.run(command, check=True, cwd=recipe, env=environment)


@torch.no_grad()
def improvements(recipe: Path, exp: Path, weights: str) -> np.ndarray:
    """SI-SDRi of every present target of the test mixtures, with the last step's weights."""
    saved = checkpoint.load(exp / "last.pt")
    conf = saved["config"]
    model = build_model(conf["model"]["name"], conf["model"]["params"], conf["sample_rate"]).eval()
    model.load_state_dict(saved["modules"]["model"] if weights == "raw" else checkpoint.averaged_weights(saved))
    mixtures = RenderedMixtures(str(recipe / "data" / "test"), conf["sample_rate"])
    values = []
    for item in tqdm(mixtures, desc=f"{exp.name} {weights}", leave=False, disable=None):
        if item["present"]:
            batch = collate([item])
            estimate = model(batch["mixture"], model.encode(batch["enroll"], batch["lengths"]))[0, 0]
            after, before = (-neg_si_sdr(wave, item["target"]) for wave in (estimate, item["mixture"][None]))
            values.append(float((after - before)[0]))
    return np.array(values)


def cost(exp: Path) -> tuple[int, float]:
    """Parameters, and CPU seconds of a step (median over the reports)."""
    weights = checkpoint.averaged_weights(checkpoint.load(exp / "last.pt"))
    log = (json.loads(line) for line in (exp / "log" / "train.jsonl").read_text().splitlines())
    return sum(tensor.numel() for tensor in weights.values()), median(line["cpu_s"] for line in log)


def table(found: dict[tuple[str, str], np.ndarray], costs: dict[str, tuple[int, float]]) -> str:
    """`found`: (seeds, mixtures) by variant and weights."""
    lines = ["| variant | parameters | CPU seconds a step | weights | SI-SDRi (dB), mean over seeds | each seed |"]
    lines += ["|---|---|---|---|---|---|"]
    for (name, weights), values in found.items():
        each = ", ".join(f"{value:.2f}" for value in values.mean(1))
        facts = f"{costs[name][0]:,} | {costs[name][1]:.3f}"
        lines.append(f"| {name} | {facts} | {weights} | {values.mean():.2f} | {each} |")
    first = next(iter(costs))
    effects = {f"averaging the weights ({name})": found[name, "averaged"] - found[name, "raw"] for name in costs}
    effects |= {f"{name} (averaged)": found[name, "averaged"] - found[first, "averaged"] for name in [*costs][1:]}
    lines += ["", "| effect of | dB | 95 % interval |", "|---|---|---|"]
    for name, difference in effects.items():
        low, high = interval(difference)
        lines.append(f"| {name} | {difference.mean():+.2f} | [{low:+.2f}, {high:+.2f}] |")
    return "\n".join(lines)


def interval(difference: np.ndarray) -> tuple[float, float]:
    """Of the mean of (seeds, mixtures): bootstrap over seeds and mixtures."""
    draw, (seeds, mixtures) = rng(0, "ablation"), difference.shape
    means = [
        difference[draw.integers(0, seeds, seeds)][:, draw.integers(0, mixtures, mixtures)].mean() for _ in range(2000)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main()
