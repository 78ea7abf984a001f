"""Do the curriculum and the averaged weights help? On the mini recipe, with several seeds.

    tools/ablation.py [--seeds 0 1 2] [--steps 2500] [--jobs 2]

Run it after stages 1 and 2 of egs/mini/tse1. Trains conf/tse.yaml with and without an easy first fifth (two talkers, a
high SNR that falls, the target always there), one process each, and scores the averaged and the raw weights of the last
step on the test mixtures (SI-SDRi of present targets). Prints a table: means over the seeds, and 95 % intervals of the
differences, paired by seed and mixture (bootstrap over both). A training that is finished is not repeated.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from tse_lib import checkpoint
from tse_lib.data.dataset import RenderedMixtures, collate
from tse_lib.losses.sdr import neg_si_sdr
from tse_lib.models import build_model
from tse_lib.rng import rng

RECIPE = Path(__file__).parents[1] / "egs" / "mini" / "tse1"
EASY = (
    'curriculum=[{{"until_step": {steps}, "simulation": '
    '{{"num_talkers": 2, "snr_db": {{"ramp": [[20, 30], [5, 20]]}}, "target_absent": 0.0}}}}]'
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--steps", type=int, default=2500, help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time (default: %(default)s)")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="(default: egs/mini/tse1)")
    args = parser.parse_args()

    runs = {
        (kind, seed): args.recipe / "exp" / f"abl_{kind}{seed}"
        for kind in ("plain", "curriculum")
        for seed in args.seeds
    }
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda key: train(args.recipe, *key, args.steps), runs))
    torch.set_num_threads(1)
    found = {}
    for (kind, seed), exp in runs.items():
        for weights in ("averaged", "raw"):
            found[kind, weights, seed] = improvements(args.recipe / "data" / "test", exp, weights)
    print(table(found, args.seeds))


def train(recipe: Path, kind: str, seed: int, steps: int) -> None:
    settings = [f"seed={seed}", f"train.max_steps={steps}", "train.valid_every=500"]
    settings += [EASY.format(steps=steps // 5)] if kind == "curriculum" else []
    words = [
        "train",
        "--conf",
        "conf/tse.yaml",
        "--noise",
        "noise_train",
        "--dev",
        "dev",
        "--exp",
        f"exp/abl_{kind}{seed}",
    ]
    for setting in settings:
        words += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "tse_lib.bin.main", *words], check=True, cwd=recipe, env=environment)


@torch.no_grad()
def improvements(test: Path, exp: Path, weights: str) -> np.ndarray:
    """SI-SDRi of every present target of the test mixtures, with the last step's weights."""
    saved = checkpoint.load(exp / "last.pt")
    conf = saved["config"]
    model = build_model(conf["model"]["name"], conf["model"]["params"], conf["sample_rate"]).eval()
    model.load_state_dict(saved["modules"]["model"] if weights == "raw" else checkpoint.averaged_weights(saved))
    mixtures = RenderedMixtures(str(test), conf["sample_rate"])
    values = []
    for item in tqdm(mixtures, desc=f"{exp.name} {weights}", leave=False, disable=None):
        if item["present"]:
            batch = collate([item])
            estimate = model(batch["mixture"], model.encode(batch["enroll"], batch["lengths"]))[0, 0]
            after, before = (-neg_si_sdr(wave, item["target"]) for wave in (estimate, item["mixture"][None]))
            values.append(float((after - before)[0]))
    return np.array(values)


def table(found: dict[tuple[str, str, int], np.ndarray], seeds: list[int]) -> str:
    lines = ["| curriculum | weights | SI-SDRi (dB), mean over seeds | each seed |", "|---|---|---|---|"]
    of = {
        (kind, weights): np.array([found[kind, weights, seed] for seed in seeds])  # (seeds, mixtures)
        for kind in ("plain", "curriculum")
        for weights in ("raw", "averaged")
    }
    for (kind, weights), values in of.items():
        each = ", ".join(f"{value:.2f}" for value in values.mean(1))
        lines.append(f"| {'yes' if kind == 'curriculum' else 'no'} | {weights} | {values.mean():.2f} | {each} |")
    effects = {
        "averaging the weights (without a curriculum)": of["plain", "averaged"] - of["plain", "raw"],
        "averaging the weights (with a curriculum)": of["curriculum", "averaged"] - of["curriculum", "raw"],
        "the curriculum (averaged weights)": of["curriculum", "averaged"] - of["plain", "averaged"],
    }
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
