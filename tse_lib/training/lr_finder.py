"""The learning-rate range test (Smith, "Cyclical learning rates for training neural networks", WACV 2017, section 3.3).

From fresh weights, each step has a higher learning rate than the one before, on a logarithmic scale. Where the loss
falls fastest is a rate that works; a tenth of that at its lowest point is a careful one.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from tse_lib import distributed
from tse_lib.config import Config
from tse_lib.data.layers import TrainingData, training_items
from tse_lib.rng import seed_of
from tse_lib.training.log import mean_of
from tse_lib.training.state import new_state
from tse_lib.training.steps import STEPS, new_run
from tse_lib.training.trainer import draw_batches, drawn_step


@dataclass(frozen=True)
class RangeTest:
    lr: list[float]
    loss: list[float]  # of each step, before its update
    smooth: list[float]  # the same without most of the batches' noise
    steepest: float | None  # where `smooth` falls fastest; None: it does not fall
    tenth: float | None  # a tenth of the rate where `smooth` is lowest
    ended: str  # why before the highest rate, else ""


def find_lr(
    conf: Config, corpus: TrainingData, device: torch.device, low: float = 1e-7, high: float = 1.0, num_steps: int = 300
) -> RangeTest:
    """Take `num_steps` optimizer steps of a fresh training, with learning rates from `low` to `high`.

    It ends early when the loss is no longer finite, or has risen as far above its first values as it had fallen below.
    Nothing is written.

    Raises:
        ValueError: rates or steps that make no ramp, or `train.step: gan`.
    """
    if not 0 < low < high or num_steps < 20:
        raise ValueError(
            f"learning rates from {low:g} to {high:g} in {num_steps} steps: two rising ones, 20 steps or more"
        )
    if conf.train.gan:
        raise ValueError(
            "train.step gan: the loss of a game does not tell a learning rate; find it for step supervised"
        )
    conf = conf.model_copy(update={"train": conf.train.model_copy(update={"max_steps": num_steps})})
    data = training_items(corpus, conf)
    state = new_state(conf, device, data.speakers)
    run, step_function = new_run(conf, state, device), STEPS[conf.train.step]
    rates, losses, ended = np.geomspace(low, high, num_steps).tolist(), list[float](), ""
    bar = tqdm(rates, desc="find_lr", unit="step", leave=False, disable=not distributed.is_main())
    state.model.train()
    with closing(draw_batches(data, conf, 0, device)) as batches:
        for lr in bar:
            for part in state.parts.values():
                for group in part.optimizer.param_groups:
                    group["lr"] = lr
            torch.manual_seed(seed_of(conf.seed, "step", state.step, distributed.rank()) % 2**63)
            present = data.num_present(drawn_step(conf, state.step))
            counts = {"present": present, "absent": data.items_per_step - present}
            scalars = step_function(state, run, [next(batches) for _ in range(conf.train.accumulate)], counts)
            state.step += 1
            if scalars["skipped"]:
                ended = f"not finite at {lr:.2g}"
                break
            losses.append(mean_of([scalars])["loss"])
            if has_diverged(losses, max(5, num_steps // 20)):
                ended = f"diverged at {lr:.2g}"
                break
    return suggest(rates[: len(losses)], losses, num_steps / 20, ended)


def has_diverged(losses: Sequence[float], window: int) -> bool:
    """The mean of the last `window` lies as far above that of the first as the lowest lies below, and not by chance.

    Losses may be negative, so no factor of theirs means anything.
    """
    means = np.convolve(losses, np.full(window, 1 / window), "valid")
    if len(means) <= window:
        return False
    chance = 2 * float(np.std(losses[:window]))
    return bool(means[-1] > means[0] + max(means[0] - means.min(), chance, 1e-6 * abs(means[0])))


def suggest(lr: list[float], loss: list[float], sigma: float, ended: str) -> RangeTest:
    """The two suggestions, from the loss over the rate's logarithm, smoothed by a Gaussian of `sigma` steps.

    A running mean of the past, as is usual, would lag behind and suggest rates that are too high.
    """
    place = np.arange(len(loss))
    weights = np.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)
    smooth = weights @ np.array(loss) / weights.sum(1)
    lowest = int(smooth.argmin()) if len(loss) > 1 else 0
    if lowest == 0:
        return RangeTest(lr, loss, smooth.tolist(), None, None, ended)
    steepest = int(np.gradient(smooth)[: lowest + 1].argmin())
    return RangeTest(lr, loss, smooth.tolist(), lr[steepest], lr[lowest] / 10, ended)
