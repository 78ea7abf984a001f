"""What a run tells: log/train.jsonl, log/valid.jsonl, TensorBoard, and lines to read."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tse_lib import distributed
from tse_lib.files import replace_file

COUNTS = ("skipped", "bad_files")
SPLIT = ("data_s", "forward_s", "backward_s", "optimizer_s")  # of a step's time


def say(line: str) -> None:
    """A line on the terminal and in the stage's log (log/train.log), above the progress bar; of the first process."""
    if distributed.is_main():
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()


def warn(line: str) -> None:
    if distributed.is_main():
        tqdm.write(f"warning: {line}", file=sys.stderr)


def mean_of(steps: list[dict[str, Tensor]]) -> dict[str, float]:
    """The scalars' mean over the steps that were taken; counts (`skipped`, `bad_files`) are summed over all.

    Of a loss each process holds a share, so shares add up; norms and `skipped` are the same everywhere.
    """
    names, device = sorted(steps[0]), steps[0]["loss"].device
    values = torch.stack([torch.stack([scalars[name].to(device) for name in names]) for scalars in steps]).double()
    taken = values[:, names.index("skipped")] == 0
    means = (values[taken] if taken.any() else values).mean(0)
    counts = torch.tensor([name in COUNTS for name in names], device=device)
    numbers = torch.where(counts, values.sum(0), means).cpu()
    shared = torch.tensor([not name.endswith("grad_norm") and name != "skipped" for name in names])
    numbers = torch.where(shared, distributed.total(numbers), numbers)
    found = {name: round(value, 6) for name, value in zip(names, numbers.tolist(), strict=True)}
    return found | {name: round(found[name]) for name in COUNTS if name in found}


class Log:
    """train.jsonl, valid.jsonl and TensorBoard. After a restart, lines behind the restored step are dropped."""

    def __init__(self, exp: Path, step: int):
        self.paths = {name: exp / "log" / f"{name}.jsonl" for name in ("train", "valid")}
        for path in self.paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            with replace_file(path) as file:
                file.writelines(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step)
        self.board: Any = None
        self.heard: set[str] = set()
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(exp / "tensorboard"), purge_step=step + 1 if step else None)
        except ImportError:
            say("tensorboard is not installed (pip install -e .[train]); log/train.jsonl has the curves")

    def train(self, step: int, max_steps: int, scalars: dict[str, float], curriculum: dict[str, float]) -> None:
        self._write("train", step, scalars)
        if self.board:
            for key, value in curriculum.items():
                self.board.add_scalar(f"curriculum/{key}", value, step)
        say(line_of(step, max_steps, scalars))

    def valid(self, step: int, scalars: dict[str, float], is_best: bool) -> None:
        self._write("valid", step, scalars)
        if self.board:
            self.board.flush()
        shown = ", ".join(f"{name} {value:.2f}" for name, value in scalars.items() if name not in ("best", "seconds"))
        new = " (a new best)" if is_best else f" (best {scalars['best']:.2f})"
        say(f"step {step}: on the development set {shown}{new}")

    def audio(self, step: int, waves: dict[str, Tensor], sample_rate: int) -> None:
        """waves (T,) by name; what is above full scale is turned down. Only estimates change: the rest is told once."""
        for name in [name for name in waves if name.endswith("/estimate") or name not in self.heard]:
            wave = waves[name]
            self.heard.add(name)
            self.board.add_audio(name, wave / wave.abs().max().clamp_min(1.0), step, sample_rate)

    def _write(self, name: str, step: int, scalars: dict[str, float]) -> None:
        with open(self.paths[name], "a") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        if self.board:
            for key, value in scalars.items():
                self.board.add_scalar(f"{name}/{key}", value, step)


def line_of(step: int, max_steps: int, scalars: dict[str, float]) -> str:
    """A report on one line: `step 50/7000  loss -3.214  neg_si_sdr -3.51 …  0.123 s/step (data 3 %, forward …)`."""
    words = [f"step {step}/{max_steps}", f"loss {scalars['loss']:.4g}"]
    rest = [name for name in scalars if name not in ("loss", "seconds", *SPLIT, *COUNTS)]
    words += [f"{name} {scalars[name]:.4g}" for name in rest]
    words += [f"{name} {scalars[name]:.0f}" for name in COUNTS if scalars.get(name)]
    step_s = sum(scalars.get(name, 0.0) for name in SPLIT)
    if step_s:
        shares = ", ".join(f"{name.removesuffix('_s')} {scalars.get(name, 0.0) / step_s:.0%}" for name in SPLIT)
        words.append(f"{step_s:.3g} s/step ({shares})")
    return "  ".join(words)
