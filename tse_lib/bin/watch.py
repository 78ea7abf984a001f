"""tse watch: follow trainings in the terminal."""

import argparse
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

from tse_lib.config import curriculum_scalars
from tse_lib.evaluation.runs import (
    Line,
    Run,
    config_of,
    counted,
    is_number,
    keys_of,
    loss_terms,
    points,
    read_runs,
    seconds_left,
    setting,
    step_time,
)

COLOURS = {"title": "1", "good": "32;1", "warning": "33;1", "": ""}  # style: parameters of ANSI's "select graphics"
SPLIT = ("data_s", "forward_s", "backward_s", "optimizer_s")  # where the time of a step goes
SHOWN_APART = ("loss", "lr", "grad_norm", "skipped", "bad_files", *SPLIT, "cpu_s")
QUIET_S = 120.0  # a log without a new line for this long is worth a word, if its lines usually come sooner
SLOW_DATA = 0.3  # the share of a step that may be spent on waiting for data
FALLING = 3  # validations, each below the one before


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse watch",
        description="Follow trainings: progress, losses, development score, pace, time left, curriculum, and what "
        "looks wrong. Only their logs are read, so a training on another machine can be followed, too. Ends when all "
        "have ended, or with Ctrl-C.",
        epilog="example: tse watch exp/tse; tse watch exp/* --once",
    )
    parser.add_argument("exp", nargs="+", help="folder of an experiment, as exp/tse; others among several are left out")
    parser.add_argument("--once", action="store_true", help="print one report and end")
    parser.add_argument("--interval", type=pause, default=5.0, metavar="S", help="seconds between two looks "
                        "(default: %(default)g)")  # fmt: skip
    args = parser.parse_args(argv)
    if args.once:
        show(report_of(read_runs(args.exp), time.time()))
        return
    try:
        follow(args.exp, args.interval)
    except KeyboardInterrupt:
        pass


def pause(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"seconds from 0.1 to 86400 expected, got {text!r}")
    return value


# ------------------------------------------------------------------------------------------------------- the terminal

Report = list[tuple[str, str]]  # (style, text), a line each


def follow(folders: Sequence[str], interval_s: float) -> None:
    """Report until all runs have ended: on a terminal in place, elsewhere whenever something has changed."""
    in_place = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    report: Report = []
    seen: list[Any] = []
    if in_place:
        print("\x1b[?1049h\x1b[?25l", end="", flush=True)  # the other screen, without a cursor
    try:
        while True:
            runs, now = read_runs(folders), time.time()
            report = report_of(runs, now)
            state = [(run.exp, run.written, is_quiet(run, now)) for run in runs]
            if in_place:
                size = shutil.get_terminal_size()
                cut = report if len(report) < size.lines else [*report[: size.lines - 2], ("", "…")]
                lines = "".join(f"{styled(style, text[: size.columns])}\x1b[K\n" for style, text in cut)
                print(f"\x1b[H{lines}\x1b[J", end="", flush=True)
            elif state != seen:
                show([("", f"--- {datetime.fromtimestamp(now):%Y-%m-%d %H:%M:%S}"), *report])
            seen = state
            if all(run.ended for run in runs):
                break
            time.sleep(interval_s)
    finally:
        if in_place:
            print("\x1b[?25h\x1b[?1049l", end="", flush=True)
            show(report)  # what was seen last stays


def show(report: Report) -> None:
    for style, text in report:
        print(styled(style, text))
    sys.stdout.flush()


def styled(style: str, text: str) -> str:
    coloured = style and sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{COLOURS[style]}m{text}\x1b[0m" if coloured else text


# --------------------------------------------------------------------------------------------------------- the report


def report_of(runs: Sequence[Run], now: float) -> Report:
    lines: Report = []
    for run in runs:
        lines += [*([("", "")] if lines else []), *report_of_run(run, now)]
    return lines


def report_of_run(run: Run, now: float) -> Report:
    last = run.train[-1] if run.train else {}
    of = f" of {run.max_steps}" if run.max_steps else ""
    state = run.ended or ("silent" if is_quiet(run, now) else "running" if run.train else "no step logged yet")
    lines: Report = [
        ("good" if run.ended else "title", f"{run.exp}: step {run.step}{of}, {state}"),
        ("", progress(run, now)),
    ]
    lines += [("warning", f"  ! {text}") for text in warnings(run, last, now)]  # here a low terminal shows them, too
    return lines + [("", line.rstrip()) for line in (*losses(run, last), *scores(run), *pace(run, last), *events(run))]


def progress(run: Run, now: float) -> str:
    share = min(1.0, run.step / run.max_steps) if run.max_steps else 0.0
    full, empty = ("█", "░") if unicode_shown() else ("#", "-")
    width = 30
    bar = full * int(share * width) + empty * (width - int(share * width))
    left = None if run.ended else seconds_left(run)
    end = ""
    if left is not None:
        day = "%H:%M" if left < 72000 else "%a %d %b %H:%M"
        end = f", {duration(left)} to go (until {datetime.fromtimestamp(run.written + left):{day}})"
        if is_quiet(run, now):
            end = f", {duration(left)} to go if it goes on"
    return f"  [{bar}] {math.floor(100 * share)} %, {duration(run.seconds)} so far{end}"


def losses(run: Run, last: Line) -> list[str]:
    """The loss, its terms, and whatever else the log has by now or in later versions."""
    terms = loss_terms(run)
    others = [key for key in keys_of(run.train) if key not in SHOWN_APART and key not in terms]
    return [
        f"  {key if key == 'loss' else f'  {key}':<24} {number(last[key]):>10}  {sparkline(points(run.train, key))}"
        for key in dict.fromkeys(("loss", *terms, *others))
        if is_number(last.get(key))
    ]


def scores(run: Run) -> list[str]:
    found = points(run.valid, run.chosen_by)
    if not run.valid:
        every = setting(run.conf, "valid_every")
        return [f"  no validation yet{f'; one every {every} steps' if every else ''}"] if run.train else []
    lines = []
    if found and run.best:
        (step, score), (best_step, best) = found[-1], run.best
        where = "the best so far" if step == best_step else f"best {best:.2f} dB at step {best_step}"
        label = "development SDR (dB)" if run.chosen_by == "sdr" else "development SI-SDRi (dB)"
        lines.append(f"  {label:<24} {score:>10.2f}  {sparkline(found)}  at step {step}, {where}")
    others = [key for key in keys_of(run.valid[-1:]) if key not in (run.chosen_by, "si_sdr", "best")]
    return lines + [
        f"  {key:<24} {number(run.valid[-1][key]):>10}  {sparkline(points(run.valid, key))}" for key in others
    ]


def pace(run: Run, last: Line) -> list[str]:
    """Learning rate, gradient, time of a step and of its parts."""
    parts = []
    if is_number(last.get("lr")):
        parts.append(f"learning rate {last['lr']:.2e}")
    if is_number(last.get("grad_norm")):
        parts.append(f"gradient norm {number(last['grad_norm'])}")
    each = step_time(run)
    if each is not None:
        split = ", ".join(f"{key[:-2]} {milliseconds(last[key])}" for key in SPLIT if is_number(last.get(key)))
        parts.append(f"{milliseconds(each)} ms a step{f' ({split})' if split else ''}")
    return [f"  {', '.join(parts)}"] if parts else []


def events(run: Run) -> list[str]:
    """Where the curriculum is, and what was skipped or started again."""
    parts = []
    ends = curriculum_ends(run)
    if ends:
        place = sum(end <= run.step for end in ends)
        until = f"until step {ends[place]}" if place < len(ends) else f"since step {ends[-1]}"
        parts.append(f"  curriculum: stretch {place + 1} of {len(ends) + 1}, {until}")
    conf = config_of(run)
    values = ", ".join(ranges(curriculum_scalars(conf, max(0, run.step - 1)))) if conf else ""
    if values:
        parts.append(f"{parts.pop()}: {values}" if parts else f"  schedule: {values}")
    counts = {
        "steps skipped, their gradient not finite": counted(run.train, "skipped"),
        "mixtures drawn anew because of bad files": counted(run.train, "bad_files"),
        "restarts": len(run.restarts),
    }
    parts += [f"  {', '.join(f'{count} {what}' for what, count in counts.items() if count)}"] * any(counts.values())
    return parts


def curriculum_ends(run: Run) -> list[int]:
    stretches = run.conf.get("curriculum")
    ends = [stretch.get("until_step") for stretch in stretches or [] if isinstance(stretch, dict)]
    return [end for end in ends if isinstance(end, int)]


def ranges(scalars: dict[str, float]) -> list[str]:
    """`snr_db 5 to 20` of snr_db_low and snr_db_high."""
    texts = []
    for name, value in scalars.items():
        stem = name.removesuffix("_low")
        if stem != name and f"{stem}_high" in scalars:
            texts.append(f"{stem} {value:.3g} to {scalars[f'{stem}_high']:.3g}")
        elif not (name.endswith("_high") and f"{name.removesuffix('_high')}_low" in scalars):
            texts.append(f"{name} {value:.3g}")
    return texts


# ------------------------------------------------------------------------------------------------------- what is wrong


def warnings(run: Run, last: Line, now: float) -> list[str]:
    found = []
    if is_quiet(run, now):
        found.append(f"nothing was logged for {duration(now - run.written)}: is the process dead?")
    bad = [
        key
        for line in (last, *run.valid[-1:])
        for key, value in line.items()
        if is_number(value) and not math.isfinite(value)
    ]
    if bad:
        found.append(f"not finite: {', '.join(dict.fromkeys(bad))}")
    if last.get("skipped"):
        found.append(
            "the last steps that were logged had gradients that are not finite: is the learning rate too high?"
        )
    falls = 0
    for (_, score), (_, following) in pairwise(points(run.valid, run.chosen_by)):
        falls = falls + 1 if following < score else 0
    if falls >= FALLING:
        found.append(f"the development score has been falling for {falls} validations")
    left = run.patience - run.since_best
    if run.patience and not run.ended and left <= max(1, run.patience // 4):
        found.append(f"{run.since_best} validations without a new best; it ends after {left} more")
    found += gan_warnings(run, last)
    each = sum(last[key] for key in SPLIT if is_number(last.get(key)))
    if is_number(last.get("data_s")) and last["data_s"] > SLOW_DATA * each:
        found.append(f"{100 * last['data_s'] / each:.0f} % of a step is waiting for data: more train.num_workers?")
    return found


def gan_warnings(run: Run, last: Line) -> list[str]:
    """By the limits of the conf's section `gan`: the two ways in which such a training runs away."""
    train = run.conf.get("train")
    gan = train.get("gan") if isinstance(train, dict) else None
    if not isinstance(gan, dict):
        return []
    found, limits, least = [], gan.get("level_ratio"), gan.get("collapse_below")
    if is_number(last.get("level_db")) and isinstance(limits, list) and len(limits) == 2:
        ratio = 10 ** (last["level_db"] / 20)
        if not limits[0] <= ratio <= limits[1]:
            found.append(f"outputs are {ratio:.2g} times as loud as their targets, outside gan.level_ratio {limits}")
    if (
        is_number(last.get("discriminator"))
        and is_number(least)
        and run.step > (gan.get("discriminator_only_steps") or 0)
    ):
        if 0 < last["discriminator"] < least:
            found.append(f"the discriminator's loss is {last['discriminator']:.2g}, below gan.collapse_below {least:g}")
    return found


def is_quiet(run: Run, now: float) -> bool:
    """Nothing was logged for four times the longest recent pause (validations make pauses), and two minutes."""
    times = [seconds for _, seconds in points(run.train[-100:], "seconds")]
    longest = max((b - a for a, b in pairwise(times)), default=0.0)
    return not run.ended and now - run.written > max(QUIET_S, 4 * longest)


# ---------------------------------------------------------------------------------------------------------- the words


def sparkline(values: Sequence[tuple[int, float]], columns: int = 24) -> str:
    """The whole course in `columns` characters, from the lowest to the highest; blank for a single value."""
    if len(values) < 2:
        return " " * columns
    marks = "▁▂▃▄▅▆▇█" if unicode_shown() else "_.-=+*%#"
    groups = np.array_split([value for _, value in values], min(columns, len(values)))
    means = np.array([group.mean() for group in groups])
    low, high = float(means.min()), float(means.max())
    span = high - low or 1.0
    return "".join(marks[int(7.999 * (mean - low) / span)] for mean in means).ljust(columns)


def unicode_shown() -> bool:
    try:
        "█░▁".encode(sys.stdout.encoding or "ascii")
        return True
    except UnicodeEncodeError:
        return False


def number(value: float) -> str:
    return f"{value:.3f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.2e}"


def milliseconds(value_s: float) -> str:
    return f"{1000 * value_s:.3g}" if value_s < 1 else f"{1000 * value_s:.0f}"


def duration(seconds: float) -> str:
    """`2:05:09`, `3 d 2:05`."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    return f"{days} d {hours}:{minutes:02}" if days else f"{hours}:{minutes:02}:{whole % 60:02}"
