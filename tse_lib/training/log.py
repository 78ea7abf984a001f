"""What a run tells: log/train.jsonl, log/valid.jsonl, TensorBoard, and lines to read, which log/train.log keeps."""

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tse_lib import distributed
from tse_lib.files import replace_file

COUNTS = ("skipped", "bad_files")
SPLIT = ("data_s", "forward_s", "backward_s", "optimizer_s")  # of a step's time


def say(line: str, exp: Path | None = None) -> None:
    """A line on the terminal, above the progress bar, and in exp/log/train.log; of the first process."""
    if distributed.is_main():
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
        keep(line, exp)


def warn(line: str, exp: Path | None = None) -> None:
    if distributed.is_main():
        tqdm.write(f"warning: {line}", file=sys.stderr)
        keep(f"warning: {line}", exp)


def keep(line: str, exp: Path | None) -> None:
    path = own_log(exp) if exp else None
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def own_log(exp: Path) -> Path | None:
    """exp/log/train.log; None where the launcher (utils/run.py) keeps all that is said in a file of the same folder."""
    launcher = os.environ.get("TSE_LOG")
    if launcher and Path(launcher).parent.absolute() == (exp / "log").absolute():
        return None
    return exp / "log" / "train.log"


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
    """All that is told in `exp`. After a restart, lines behind the restored step are dropped."""

    def __init__(self, exp: Path, step: int):
        self.exp = exp
        self.paths = {name: exp / "log" / f"{name}.jsonl" for name in ("train", "valid")}
        for path in self.paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            with replace_file(path) as file:
                file.writelines(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step)
        told = own_log(exp)
        if told and told.exists():
            with open(told, encoding="utf-8", errors="replace", newline="\n") as file:
                lines = [line for line in file if line.endswith("\n") and step_told(line) <= step]
            with replace_file(told) as file:
                file.writelines(lines)
        keep(f"# Started at {time.strftime('%Y-%m-%d %H:%M:%S %z')}, step {step}", exp)
        self.board: Any = None
        self.heard: set[str] = set()
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(exp / "tensorboard"), purge_step=step + 1 if step else None)
        except ImportError:
            say("tensorboard is not installed (pip install -e .[train]); log/train.jsonl has the curves")

    def close(self) -> None:
        """TensorBoard writes in a thread of its own; what was told last would be lost with the process."""
        if self.board:
            self.board.close()

    def train(self, step: int, max_steps: int, scalars: dict[str, float], curriculum: dict[str, float]) -> None:
        self._write("train", step, scalars)
        if self.board:
            for key, value in curriculum.items():
                self.board.add_scalar(f"curriculum/{key}", value, step)
        say(line_of(step, max_steps, scalars), self.exp)

    def valid(self, step: int, scalars: dict[str, float], is_best: bool) -> None:
        self._write("valid", step, scalars)
        if self.board:
            self.board.flush()
        shown = ", ".join(f"{name} {value:.2f}" for name, value in scalars.items() if name not in ("best", "seconds"))
        new = " (a new best)" if is_best else f" (best {scalars['best']:.2f})"
        say(f"step {step}: on the development set {shown}{new}", self.exp)

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


def step_told(line: str) -> int:
    """The step of a line that `say` or `warn` wrote; 0 of others."""
    found = re.match(r"(?:warning: )?step (\d+)[/:]", line)
    return int(found[1]) if found else 0


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
