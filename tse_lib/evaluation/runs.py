"""A training as it lies on disk: conf, logs, restarts. It may be running, killed, finished, or of another version."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tse_lib.config import Config, build, read_yaml

Line = dict[str, Any]  # of a log: "step", and what was measured there

NO_CURVES = ("step", "seconds")
RECENT = 20  # lines of the training's log that its present pace is taken from


@dataclass(frozen=True)
class Run:
    name: str  # short, and unlike those of the runs beside it
    exp: Path
    conf: dict[str, Any]  # config.yaml as it is, with the keys of its own version
    train: list[Line]
    valid: list[Line]
    restarts: list[Line]  # exit_code, step, wait_s: see utils/keep_training.sh
    written: float  # when a log grew last, in seconds since the epoch; of config.yaml as long as there is none

    @property
    def step(self) -> int:
        return self.train[-1]["step"] if self.train else 0

    @property
    def seconds(self) -> float:
        """Of training, over restarts."""
        return max((line.get("seconds", 0.0) for line in self.train[-1:] + self.valid[-1:]), default=0.0)

    @property
    def max_steps(self) -> int | None:
        return setting(self.conf, "max_steps")

    @property
    def patience(self) -> int:
        """Validations without a new best after which the training ends; 0: never."""
        return setting(self.conf, "patience") or 0

    @property
    def since_best(self) -> int:
        """Validations since the best one."""
        return sum(line["step"] > self.best[0] for line in self.valid) if self.best else len(self.valid)

    @property
    def ended(self) -> str:
        """Why it will not go on: "finished", "out of patience", or "" while it may."""
        if self.max_steps and self.step >= self.max_steps:
            return "finished"
        return "out of patience" if 0 < self.patience <= self.since_best else ""

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and SI-SDRi in dB of the best validation."""
        return max(points(self.valid, self.chosen_by), key=lambda point: point[1], default=None)

    @property
    def chosen_by(self) -> str:
        """The score of validations that its checkpoint is chosen by: of stems, whose scores have it, the SDR."""
        return "sdr" if any("sdr" in line for line in self.valid) else "si_sdri"

    def seconds_at(self, steps: Sequence[float]) -> list[float]:
        """Seconds of training until these steps, between the lines of the log."""
        known = np.array([(0, 0.0), *points(self.train, "seconds")])
        return np.interp(steps, known[:, 0], known[:, 1]).tolist()


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """The runs in these folders, in their order. What has no config.yaml is left out: `exp/*` holds other things, too.

    Raises:
        FileNotFoundError: a folder does not exist, or none of them holds a run.
        ValueError: a config.yaml is no YAML mapping.
    """
    paths = list(dict.fromkeys(Path(folder) for folder in folders))
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such folder; that of an experiment is wanted, as exp/tse")
    found = [path for path in paths if (path / "config.yaml").exists()]
    if not found:
        raise FileNotFoundError(f"{', '.join(map(str, paths))}: no training here: there is no config.yaml")
    return [read_run(path, name) for path, name in zip(found, short_names(found), strict=True)]


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path that no other has: `mini/tse1/exp/tse` beside `librimix/tse1/exp/tse`."""
    every = [path.resolve().parts for path in paths]
    return [
        "/".join(
            next((parts[-n:] for n in range(1, len(parts)) if [p[-n:] for p in every].count(parts[-n:]) == 1), parts)
        )
        for parts in every
    ]


def read_run(exp: Path, name: str) -> Run:
    conf = read_yaml(exp / "config.yaml")
    if not isinstance(conf, dict):
        raise ValueError(f"{exp}/config.yaml: a mapping of keys expected, got {conf!r}")
    paths = [exp / "log" / f"{kind}.jsonl" for kind in ("train", "valid", "restarts")]
    logs = [path for path in paths[:2] if path.exists()] or [exp / "config.yaml"]
    train, valid, restarts = map(read_lines, paths)
    return Run(name, exp, conf, train, valid, restarts, max(path.stat().st_mtime for path in logs))


def read_lines(path: Path) -> list[Line]:
    """The lines of a log that have a step; none without a log. What a kill or a full disk has cut is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def points(lines: Sequence[Line], key: str) -> list[tuple[int, float]]:
    """(step, value) where the log has a finite one."""
    return [(line["step"], float(line[key])) for line in lines if is_number(line.get(key)) and math.isfinite(line[key])]


def keys_of(lines: Sequence[Line]) -> list[str]:
    """What these lines hold a number of, besides step and time, in the order of its coming."""
    names = dict.fromkeys(key for line in lines for key, value in line.items() if is_number(value))
    return [name for name in names if name not in NO_CURVES]


def setting(conf: dict[str, Any], key: str) -> int | None:
    """A number of the conf's `train`; None where another version has none."""
    train = conf.get("train")
    value = train.get(key) if isinstance(train, dict) else None
    return value if is_number(value) else None


def loss_terms(run: Run) -> list[str]:
    """The names of the loss's terms."""
    terms = run.conf.get("loss")
    return [str(term.get("name")) for term in terms if isinstance(term, dict)] if isinstance(terms, list) else []


def config_of(run: Run) -> Config | None:
    """The conf as this version reads it; None where it cannot."""
    try:
        return build(Config, run.conf, str(run.exp))
    except ValueError:
        return None


def counted(lines: Sequence[Line], key: str) -> int:
    """The sum of a column."""
    return round(sum(value for _, value in points(lines, key)))


def step_time(run: Run) -> float | None:
    """Seconds a step takes at present: the median over the last lines, so that validations do not count."""
    recent = [line for line in run.train[-RECENT:] if is_number(line.get("seconds"))]
    times = [
        (second["seconds"] - first["seconds"]) / (second["step"] - first["step"])
        for first, second in pairwise(recent)
        if second["step"] > first["step"]
    ]
    return (median(times) or None) if times else None  # 0.0 where the log's tenths of a second are too coarse


def seconds_left(run: Run) -> float | None:
    """At the mean pace, validations included, of the last lines or two validations, whichever is longer."""
    if not run.train or not run.max_steps or run.step <= 0:
        return None
    window = max(2 * (setting(run.conf, "valid_every") or 0), run.step - run.train[-RECENT:][0]["step"])
    first = max(0, run.step - window)
    begin, end = run.seconds_at([first, run.step])
    pace = (end - begin) / (run.step - first)
    return pace * max(0, run.max_steps - run.step)
