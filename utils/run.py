#!/usr/bin/env python3
"""Run one command, or N copies of it side by side, each with its own log. Only the standard library is used.

    run.py [OPTION..] [JOB=1:N] LOGFILE COMMAND ARG..

    run.py exp/log/train.log tse train --conf conf/tse.yaml
    run.py --num-threads 1 JOB=1:8 exp/log/score.JOB.log tse score --job JOB/NJ

In the log's name and in every argument, JOB becomes the number of the copy, NJ how many copies there are and NGPU how
many GPUs each one has, but only as whole words: /data/JOBS stays. Arguments are never read by a shell.

A log begins and ends as Kaldi's run.pl writes it. Beside it, .status/ holds one JSON file a task. With --key K, tasks
that have succeeded with the same key are not run again: the way to resume an array that was killed.

The exit code is 0 if every task succeeded, the code of the failed tasks if they agree on it, and 1 otherwise.

How it works: the launcher starts one wrapper (this file with --task) per task, on this machine or through a queue; the
wrapper runs the command in a process group of its own and writes log and status. When the launcher ends for whatever
reason, SIGKILL included, its wrappers and their commands end too.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import resource
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

POLL_S = 0.05
TAIL_LINES = 20
END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
Task = dict[str, Any]  # JSON: it travels to the wrapper, which may run on another machine


class Ended(Exception):
    """A signal asks this process to end; its number is the argument."""


def main(argv: list[str]) -> int:
    if argv[:1] == ["--task"]:
        return run_task(json.loads(argv[1]))
    options = parse(argv)
    end_with_parent(options.parent)
    tasks = make_tasks(options)
    pending = [task for task in tasks if not finished(task)]
    if len(pending) < len(tasks):
        note(f"{len(tasks) - len(pending)} of {len(tasks)} tasks were finished before")
    try:
        run_all(pending, len(tasks), options)
    except Ended as signal_number:
        return 128 + signal_number.args[0]
    return report(tasks, options)


# ------------------------------------------------------------------------------------------------- the command line


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.py",
        usage="run.py [options] [JOB=1:N] LOGFILE COMMAND [ARG ..]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--backend", choices=sorted(BACKENDS), default="local", help="where tasks run")
    parser.add_argument("--nj-max", type=positive, help="tasks at a time (default: as many as there are cores or GPUs)")
    parser.add_argument("--num-threads", type=positive, help="threads of a task (default for an array: 1)")
    parser.add_argument("--gpu", type=gpu_count, default=0, help="GPUs of a task; auto: one if there is one")
    parser.add_argument("--mem", type=memory, help="memory of a task, as 4G (for queues)")
    parser.add_argument("--time", type=duration, help="time limit of a task, as 4:00:00 or 2-00:00:00 (for queues)")
    parser.add_argument("--key", default="", help="do not run again what has succeeded with this key")
    parser.add_argument("--tee", action="store_true", help="show the output here, too (one task only)")
    parser.add_argument("--grace", type=float, default=15, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="end when this process, our parent, ends")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.job = None
    if options.words and (job := re.fullmatch(r"([A-Za-z]\w*)=(\d+)(?::(\d+))?", options.words[0])):
        options.job = (job[1], int(job[2]), int(job[3] or job[2]))
        # Kaldi allows options after JOB=1:N as well as before it.
        options = parser.parse_args(options.words[1:], argparse.Namespace(**{**vars(options), "words": []}))
    if len(options.words) < 2:
        parser.error("a log file and a command are needed")
    if options.job:
        name, first, last = options.job
        if not 1 <= first <= last:
            parser.error(f"{name}={first}:{last}: wanted 1 <= first <= last")
        if first < last and replace_words(options.words[0], {name: "1"}) == options.words[0]:
            parser.error(f"{options.words[0]}: {last - first + 1} tasks would share this log; put {name} in its name")
        if options.tee and first < last:
            parser.error("--tee is for one task")
    if options.gpu == "auto":
        options.gpu = min(1, len(gpu_names()))
    return options


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def gpu_count(text: str) -> int | str:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto")
    return text if text == "auto" else int(text)


def memory(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?[KMGT]?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of memory, such as 4G")
    return text


def duration(text: str) -> str:
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time limit, such as 90 (minutes), 4:00:00 or 2-00:00:00")
    return text


def make_tasks(options: argparse.Namespace) -> list[Task]:
    log, *command = options.words
    name, first, last = options.job or (None, 1, 1)
    count = last - first + 1
    threads = options.num_threads or (1 if count > 1 else None)
    tasks = []
    for number in range(first, last + 1):
        words = {"NGPU": str(options.gpu)}
        if name:
            words |= {name: str(number), "NJ": str(count)}
        task_log = Path(replace_words(log, words))
        tasks.append(
            {
                "log": str(task_log),
                "status": str(task_log.parent / ".status" / f"{task_log.name.removesuffix('.log')}.json"),
                "command": [replace_words(word, words) for word in command],
                "count": count,
                "key": options.key,
                "tee": options.tee,
                "grace": options.grace,
                "threads": threads,
                "parent": os.getpid(),
                "environment": {},
            }
        )
    return tasks


def replace_words(text: str, words: dict[str, str]) -> str:
    return re.sub(rf"(?<!\w)({'|'.join(words)})(?!\w)", lambda found: words[found[0]], text)


# -------------------------------------------------------------------------------------------------------- the array


def run_all(pending: list[Task], count: int, options: argparse.Namespace) -> None:
    """Keep as many tasks running as the backend has room for; on a signal, cancel them and wait for their end."""
    backend = BACKENDS[options.backend]
    slots = backend.slots(options)  # asked in any case: it checks that there are enough GPUs
    most = options.nj_max or slots
    waiting, failed = list(pending), 0
    running: list[tuple[Task, Any]] = []
    progress = Progress(enabled=count > 1)
    for task in pending:
        Path(task["status"]).parent.mkdir(parents=True, exist_ok=True)
        Path(task["status"]).unlink(missing_ok=True)
    try:
        while waiting or running:
            if waiting and (free := most - len(running)) > 0:
                running += backend.submit(waiting[:free], options)
                waiting = waiting[free:]
            ended = [task for task, handle in running if backend.poll(handle)]
            running = [(task, handle) for task, handle in running if task not in ended]
            failed += sum(not succeeded(task) for task in ended)
            done = count - len(waiting) - len(running) - failed
            progress.show(f"{done}/{count} done, {len(running)} running, {failed} failed")
            time.sleep(POLL_S if running else 0)
    except Ended:
        for number in END_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        backend.cancel([handle for _, handle in running])
        raise
    finally:
        progress.close()


class Progress:
    """One line that rewrites itself on a terminal; elsewhere a new line, but not more often than every 10 s."""

    def __init__(self, enabled: bool) -> None:
        self.enabled, self.terminal = enabled, sys.stderr.isatty()
        self.text, self.shown, self.time = "", "", time.monotonic()

    def show(self, text: str) -> None:
        if not self.enabled or text == self.text:
            return
        self.text = text
        if self.terminal:
            print(f"\r{text:<60}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self.time > 10:
            self._line()

    def close(self) -> None:
        if self.terminal and self.text:
            print(file=sys.stderr)
        elif self.text != self.shown:
            self._line()

    def _line(self) -> None:
        note(self.text)
        self.shown, self.time = self.text, time.monotonic()


def report(tasks: list[Task], options: argparse.Namespace) -> int:
    """Say which tasks failed, how, and what the first of them said last; the exit code of the whole."""
    failures = [(task, read_status(task)) for task in tasks if not succeeded(task)]
    if not failures:
        return 0
    causes = [describe(status) for _, status in failures]
    summary = ", ".join(f"{causes.count(cause)} {cause}" for cause in dict.fromkeys(causes))
    note(f"{len(failures)} of {len(tasks)} tasks failed: {summary}")
    log = failures[0][0]["log"]
    note(f"log: {log}")
    if not options.tee:  # else it has just been shown
        for line in tail(log):
            note(f"  {line}")
    codes = {exit_code(status) for _, status in failures}
    return codes.pop() if len(codes) == 1 else 1


def describe(status: dict[str, Any]) -> str:
    if not status:
        return "lost (no status was written)"
    number = status["signal"] or max(0, status["exit_code"] - 128)
    cause = " (killed: out of memory?)" if number == signal.SIGKILL else ""
    return (f"signal {number}" if status["signal"] else f"exit {status['exit_code']}") + cause


def exit_code(status: dict[str, Any]) -> int:
    if not status:
        return 1
    return 128 + status["signal"] if status["signal"] else status["exit_code"]


def tail(path: str) -> list[str]:
    """The last lines of a log; of a progress bar only its last state."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 65536))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError as error:
        return [str(error)]
    shown = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines]
    return [line for line in shown if line.strip()][-TAIL_LINES:]


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------ status of one task


def read_status(task: Task) -> dict[str, Any]:
    try:
        return json.loads(Path(task["status"]).read_text())
    except (OSError, ValueError):
        return {}


def succeeded(task: Task) -> bool:
    status = read_status(task)
    return bool(status) and status["exit_code"] == 0 and status["signal"] == 0


def finished(task: Task) -> bool:
    """Whether an earlier launch has done exactly this task."""
    same = ("key", "count", "command")
    status = read_status(task)
    return bool(task["key"]) and succeeded(task) and all(status.get(name) == task[name] for name in same)


# ------------------------------------------------------------------------------------------- the wrapper of one task


def run_task(task: Task) -> int:
    end_with_parent(task["parent"])
    started, clock = time.time(), time.monotonic()
    code, number = 0, 0
    threads = task["threads"]
    environment = {
        **os.environ,
        **task["environment"],
        "PYTHONUNBUFFERED": "1",
        "TSE_LOG": os.path.abspath(task["log"]),
    }
    if threads:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    os.makedirs(os.path.dirname(task["log"]) or ".", exist_ok=True)
    with open(task["log"], "wb", buffering=0) as log:
        words = shlex.join(task["command"]).replace("\n", "\\n")
        log.write(f"# {words} \n# Started at {date(started)}\n#\n".encode(errors="surrogateescape"))
        try:
            returned = run_command(task, environment, log)
            code, number = max(0, returned), max(0, -returned)
        except OSError as error:
            log.write(f"{task['command'][0]}: {error.strerror}\n".encode(errors="surrogateescape"))
            code = 127 if isinstance(error, FileNotFoundError) else 126
        except Ended as ended:
            number = ended.args[0]
        seconds = time.monotonic() - clock
        killed = f"; signal {number}" if number else ""
        log.write(
            f"# Accounting: time={seconds:.0f} threads={threads or 1}\n"
            f"# Ended (code {code}{killed}) at {date(time.time())}, elapsed time {seconds:.0f} seconds\n".encode()
        )
    status = {name: task[name] for name in ("key", "count", "command")} | {
        "exit_code": code,
        "signal": number,
        "seconds": round(seconds, 3),
        "host": socket.gethostname(),
        "max_rss_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1),
    }
    path = Path(task["status"])
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(status, indent=1) + "\n")
    partial.replace(path)
    return 128 + number if number else code


def run_command(task: Task, environment: dict[str, str], log: Any) -> int:
    """The command's exit code, or minus the signal that ended it. Nothing of its process group survives it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)  # none comes between the command's start and its `try`
    child = subprocess.Popen(
        task["command"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if task["tee"] else log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        preexec_fn=before_command,
    )
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
        if child.stdout:
            tee(child, log)
        return child.wait()
    except Ended:
        for number in END_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        kill_group(child.pid, signal.SIGTERM)
        try:
            child.wait(task["grace"])
        except subprocess.TimeoutExpired:
            pass
        raise
    finally:
        kill_group(child.pid, signal.SIGKILL)
        child.wait()


def before_command() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # bash lets what it runs in the background ignore it
    prctl_death_signal(signal.SIGKILL)


def tee(child: subprocess.Popen[bytes], log: Any) -> None:
    """Bytes as they come, so that progress bars move, until the command ends; what it has left may hold the pipe."""
    assert child.stdout
    shown = True
    while True:
        if not select.select([child.stdout], [], [], POLL_S)[0]:
            if child.poll() is not None:
                return
            continue
        chunk = os.read(child.stdout.fileno(), 65536)
        if not chunk:
            return
        log.write(chunk)
        if shown:
            try:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            except OSError:  # the terminal is gone: the log goes on
                shown = False
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def kill_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def date(seconds: float) -> str:
    return time.strftime("%a %b %e %H:%M:%S %Z %Y", time.localtime(seconds))


def end_with_parent(parent: int) -> None:
    """Turn the end of the parent, and every signal that asks to end, into Ended."""
    for number in END_SIGNALS:
        # What nohup or bash's background ignores stays ignored; but the death signal below must reach us.
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, raise_ended)
    prctl_death_signal(signal.SIGTERM)
    if os.getppid() != parent:  # it died before we asked to be told
        sys.exit(128 + signal.SIGTERM)


def raise_ended(number: int, frame: FrameType | None) -> NoReturn:
    raise Ended(number)


def prctl_death_signal(number: int) -> None:
    if PRCTL:
        PRCTL(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG


PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


# ------------------------------------------------------------------------------------------------------ the backends


class Backend(NamedTuple):
    """What a place to run tasks needs. A handle is whatever its submit returns for a task."""

    slots: Callable[[argparse.Namespace], int]  # how many tasks at a time
    submit: Callable[[list[Task], argparse.Namespace], list[tuple[Task, Any]]]
    poll: Callable[[Any], bool]  # whether it has ended; its status file tells how
    cancel: Callable[[list[Any]], None]  # returns when nothing of them runs any more


GPU_TASKS: dict[str, int] = {}  # how many tasks run on each GPU of this machine: the next goes to the least busy


class LocalTask(NamedTuple):
    process: subprocess.Popen[bytes]
    gpus: list[str]


def local_slots(options: argparse.Namespace) -> int:
    if options.gpu and (found := len(gpu_names())):
        GPU_TASKS.update(dict.fromkeys(gpu_names(), 0))
        if found < options.gpu:
            note(f"run.py: --gpu {options.gpu}: this machine has {found}")
            sys.exit(2)
        return found // options.gpu
    return max(1, len(os.sched_getaffinity(0)) // (options.num_threads or 1))


def local_submit(tasks: list[Task], options: argparse.Namespace) -> list[tuple[Task, LocalTask]]:
    submitted = []
    for task in tasks:
        gpus = sorted(GPU_TASKS, key=lambda name: GPU_TASKS[name])[: options.gpu] if options.gpu else []
        if gpus:
            GPU_TASKS.update({name: GPU_TASKS[name] + 1 for name in gpus})
            task["environment"] = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        wrapper = [sys.executable, os.path.abspath(__file__), "--task", json.dumps(task)]
        # The recipe's lock is an open file: it is held as long as a task runs, even when the launcher was killed.
        process = subprocess.Popen(wrapper, stdin=subprocess.DEVNULL, start_new_session=True, close_fds=False)
        submitted.append((task, LocalTask(process, gpus)))
    return submitted


def local_poll(task: LocalTask) -> bool:
    if task.process.poll() is None:
        return False
    GPU_TASKS.update({name: GPU_TASKS[name] - 1 for name in task.gpus})
    return True


def local_cancel(tasks: list[LocalTask]) -> None:
    for task in tasks:
        task.process.terminate()
    for task in tasks:
        task.process.wait()


def gpu_names() -> list[str]:
    """What CUDA_VISIBLE_DEVICES allows, else every GPU the driver lists."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]


# Queues (slurm, sge, pbs) are further entries: submit hands `run.py --task JSON` to the scheduler.
BACKENDS = {"local": Backend(local_slots, local_submit, local_poll, local_cancel)}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
