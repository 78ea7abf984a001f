"""What stops a training, or ends it early: gradients that are not finite, a GAN that goes wrong, bad files, signals."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tse_lib import distributed
from tse_lib.config import Gan
from tse_lib.training.log import warn
from tse_lib.training.state import State
from tse_lib.training.steps import Run, find_fault

REQUEUE_EXIT = 75  # EX_TEMPFAIL: the run was asked to stop, has saved, and wants to be started again


class StopSignal:
    """Between `with` and its end, SIGTERM and SIGUSR1 are noted (and handed on) instead of ending the process."""

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, hand_on: Callable[[int], object] = lambda number: None) -> None:
        self.name = ""  # of the signal that came
        self.hand_on = hand_on

    def __enter__(self) -> "StopSignal":
        def note(number: int, frame: Any) -> None:
            self.name = signal.Signals(number).name
            self.hand_on(number)

        self.before = [signal.signal(number, note) for number in self.SIGNALS]
        return self

    def __exit__(self, *fault: object) -> None:
        for number, handler in zip(self.SIGNALS, self.before, strict=True):
            signal.signal(number, handler)


class NotFinite:
    """Steps that were skipped since their gradient was not finite: the first in a row is told, too many are the end."""

    AT_MOST = 20

    def __init__(self) -> None:
        self.in_a_row, self.first = 0, ""

    def note(self, skipped: bool, state: State, run: Run, batches: list[dict[str, Any]], lr: float, exp: Path) -> None:
        """
        Raises:
            ValueError: `AT_MOST` steps in a row were skipped.
        """
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        if self.in_a_row == 1:
            faults = [fault for fault in distributed.gather(find_fault(run, batches)) if fault]
            what = "; ".join(faults) or "only in the backward pass"
            self.first = f"step {state.step}: the gradient is not finite ({what}; lr {lr:.3g})"
            warn(f"{self.first}; skipped", exp)
        if self.in_a_row >= self.AT_MOST:
            raise ValueError(
                f"{exp}: the gradient was not finite in {self.AT_MOST} steps in a row, at step {state.step}; "
                f"the last good step was {state.step - self.in_a_row}, then {self.first}; lower train.lr, or look at "
                "these mixtures (tse inspect)"
            )


def note_alarms(state: State, gan: Gan, numbers: dict[str, float], exp: Path) -> None:
    """Warn of a GAN training that goes wrong, from what a report says.

    Raises:
        ValueError: the same warning in `gan.stop_after` reports in a row.
    """
    ratio, (low, high) = 10 ** (numbers["level_db"] / 20), gan.level_ratio
    found = {}
    if not low <= ratio <= high:
        found["level"] = (
            f"the output is {ratio:.2g} times as loud as the target, outside level_ratio {low:g} to {high:g}; add the "
            "loss 'amplitude', or lower adversarial_weight"
        )
    if state.step > gan.discriminator_only_steps and 0 < numbers["discriminator"] < gan.collapse_below:
        found["collapse"] = (
            f"the discriminator's loss is {numbers['discriminator']:.2g}, below collapse_below {gan.collapse_below:g}: "
            "it tells every estimate, and the extractor learns nothing from it; lower gan.lr, or make it smaller"
        )
    state.alarms = {name: state.alarms.get(name, 0) + 1 for name in found}
    for name, message in found.items():
        if gan.stop_after and state.alarms[name] >= gan.stop_after:
            raise ValueError(f"{exp}: step {state.step}, for {state.alarms[name]} reports in a row: {message}")
        warn(f"step {state.step}: {message}", exp)


class BadFiles:
    """Files that could not be read while drawing: named once each, counted in the log, or the end, as configured."""

    def __init__(self, policy: str):
        self.policy, self.named = policy, set[str]()

    def note(self, batches: list[dict[str, Any]]) -> int:
        """How many mixtures were drawn anew.

        Raises:
            ValueError: the policy is "stop".
        """
        found = [fault for batch in batches for fault in batch["bad_files"]]
        for fault in found:
            if self.policy == "stop":
                raise ValueError(f"{fault}; train.bad_files: skip goes on without such files")
            if fault not in self.named:
                tqdm.write(f"skipped: {fault}", file=sys.stderr)
                self.named.add(fault)
        return len(found)
