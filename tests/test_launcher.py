"""utils/run.py: quoting, logs, statuses, exit codes, and that nothing survives it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = Path(__file__).parent.parent / "utils" / "run.py"


def launch(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, RUN, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def body(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if not line.startswith("#")]


def wait_for(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_log_is_written_as_kaldi_writes_it(tmp_path):
    assert launch("log/x.log", "bash", "-c", "echo out; echo err >&2", cwd=tmp_path).returncode == 0
    date = r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \S+ \d{4}"
    assert re.fullmatch(
        r"# bash -c 'echo out; echo err >&2' \n"
        rf"# Started at {date}\n"
        r"#\n"
        r"out\nerr\n"
        r"# Accounting: time=\d+ threads=1\n"
        rf"# Ended \(code 0\) at {date}, elapsed time \d+ seconds\n",
        (tmp_path / "log/x.log").read_text(),
    )


AWKWARD = ["a(b).wav", "it's", "", "ünï", "two\nlines", "$HOME", "`id`", 'say "hi"', "*", "--x=JOBS", "a\\b", "; false"]


def test_arguments_are_never_read_by_a_shell(tmp_path):
    show = "import sys, json; print(json.dumps(sys.argv[1:]))"
    assert launch("x.log", sys.executable, "-c", show, *AWKWARD, cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "x.log").read_text().splitlines()[3]) == AWKWARD


def test_job_is_replaced_as_a_whole_word_only(tmp_path):
    words = ["JOB/NJ", "/data/JOBS/JOB/x", "scp.JOB.txt", "JOB_1", "NJOB", "{JOB}"]
    assert launch("JOB=2:3", "log/x.JOB.log", "printf", r"%s\n", *words, cwd=tmp_path).returncode == 0
    assert body(tmp_path / "log/x.3.log") == ["3/2", "/data/JOBS/3/x", "scp.3.txt", "JOB_1", "NJOB", "{3}"]
    assert sorted(path.name for path in (tmp_path / "log").glob("*.log")) == ["x.2.log", "x.3.log"]


def test_a_command_knows_where_its_output_is_kept(tmp_path):
    assert launch("log/x.log", "sh", "-c", "echo $TSE_LOG", cwd=tmp_path).returncode == 0
    assert body(tmp_path / "log/x.log") == [str(tmp_path / "log" / "x.log")]


def test_options_may_follow_job_as_in_kaldi(tmp_path):
    assert launch("--mem", "4G", "JOB=1:2", "--num-threads", "3", "x.JOB.log", "env", cwd=tmp_path).returncode == 0
    lines = body(tmp_path / "x.1.log")
    assert {"OMP_NUM_THREADS=3", "MKL_NUM_THREADS=3", "OPENBLAS_NUM_THREADS=3"} <= set(lines)


def test_threads_are_limited_in_arrays_and_left_alone_otherwise(tmp_path):
    assert launch("JOB=1:2", "x.JOB.log", "env", cwd=tmp_path, OMP_NUM_THREADS="7").returncode == 0
    assert "OMP_NUM_THREADS=1" in body(tmp_path / "x.2.log")
    assert launch("y.log", "env", cwd=tmp_path, OMP_NUM_THREADS="7").returncode == 0
    assert "OMP_NUM_THREADS=7" in body(tmp_path / "y.log")


def test_gpus_are_shared_out(tmp_path):
    command = ["bash", "-c", "echo $CUDA_VISIBLE_DEVICES NGPU; sleep 0.5"]
    result = launch("--gpu", "1", "JOB=1:2", "x.JOB.log", *command, cwd=tmp_path, CUDA_VISIBLE_DEVICES="4,6")
    assert result.returncode == 0, result.stderr
    assert sorted(body(tmp_path / "x.1.log") + body(tmp_path / "x.2.log")) == ["4 1", "6 1"]
    result = launch("--gpu", "2", "x.log", *command, cwd=tmp_path, CUDA_VISIBLE_DEVICES="4,6")
    assert body(tmp_path / "x.log") == ["4,6 2"]
    result = launch("--gpu", "3", "x.log", *command, cwd=tmp_path, CUDA_VISIBLE_DEVICES="4,6")
    assert result.returncode == 2 and "this machine has 2" in result.stderr
    launch("--gpu", "auto", "x.log", "echo", "NGPU", cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert body(tmp_path / "x.log") == ["0"]


def test_gpus_are_found_by_the_driver(tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: H200 (UUID: a)'\necho 'GPU 1: H200 (UUID: b)'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    command = [sys.executable, RUN, "--gpu", "auto", "JOB=1:4", "x.JOB.log", "bash", "-c", "echo $CUDA_VISIBLE_DEVICES"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert {body(tmp_path / f"x.{i}.log")[0] for i in range(1, 5)} == {"0", "1"}


def test_status_file(tmp_path):
    assert launch("--key", "k", "JOB=1:1", "log/x.JOB.log", "bash", "-c", "exit 4", cwd=tmp_path).returncode == 4
    status = json.loads((tmp_path / "log/.status/x.1.json").read_text())
    assert status["key"] == "k" and status["exit_code"] == 4 and status["signal"] == 0
    assert status["seconds"] >= 0 and status["max_rss_mb"] > 0 and status["host"]


@pytest.mark.parametrize(
    ("script", "code", "summary"),
    [
        ("[ JOB = 1 ] || exit 4", 4, "2 of 3 tasks failed: 2 exit 4"),
        ("[ JOB != 3 ] || exit 7", 7, "1 of 3 tasks failed: 1 exit 7"),
        ("exit JOB", 1, "3 of 3 tasks failed: 1 exit 1, 1 exit 2, 1 exit 3"),
        ("kill -9 $$", 137, "3 of 3 tasks failed: 3 signal 9 (killed: out of memory?)"),
        ("exit 137", 137, "3 of 3 tasks failed: 3 exit 137 (killed: out of memory?)"),
    ],
)
def test_exit_code_and_summary(tmp_path, script, code, summary):
    result = launch("JOB=1:3", "x.JOB.log", "bash", "-c", f"echo I am task JOB; {script}", cwd=tmp_path)
    assert result.returncode == code
    assert summary in result.stderr and "I am task" in result.stderr
    if "kill" in script:
        assert "# Ended (code 0; signal 9) at" in (tmp_path / "x.1.log").read_text()


def test_only_the_first_failing_log_is_shown_and_only_its_end(tmp_path):
    result = launch("JOB=1:3", "x.JOB.log", "bash", "-c", "seq 100; echo task JOB; exit 1", cwd=tmp_path)
    assert "task 1" in result.stderr and "task 2" not in result.stderr
    assert "\n  100\n" in result.stderr and "\n  50\n" not in result.stderr


def test_a_command_that_does_not_exist(tmp_path):
    result = launch("x.log", "no-such-command", cwd=tmp_path)
    assert result.returncode == 127 and "no-such-command: No such file or directory" in result.stderr


def test_only_unfinished_tasks_run_again(tmp_path):
    command = ["bash", "-c", "echo run >>count.JOB; [ JOB != 2 ] || [ -e fixed ]"]
    array = ["JOB=1:3", "log/x.JOB.log", *command]

    def counts() -> list[int]:
        return [len((tmp_path / f"count.{i}").read_text().split()) for i in (1, 2, 3)]

    assert launch("--key", "a", *array, cwd=tmp_path).returncode == 1
    (tmp_path / "fixed").touch()
    result = launch("--key", "a", *array, cwd=tmp_path)
    assert result.returncode == 0 and "2 of 3 tasks were finished before" in result.stderr
    assert counts() == [1, 2, 1]
    assert launch("--key", "b", *array, cwd=tmp_path).returncode == 0
    assert counts() == [2, 3, 2]
    assert launch("--key", "b", "JOB=1:2", *array[1:], cwd=tmp_path).returncode == 0  # another division of the work
    assert counts() == [3, 4, 2]
    assert launch(*array, cwd=tmp_path).returncode == 0  # without a key everything runs
    assert counts() == [4, 5, 3]


def test_no_more_tasks_at_a_time_than_allowed(tmp_path):
    script = "touch on.JOB; ls | grep -c '^on' ; sleep 0.2; rm on.JOB"
    assert launch("--nj-max", "2", "JOB=1:5", "x.JOB.log", "bash", "-c", script, cwd=tmp_path).returncode == 0
    assert {body(tmp_path / f"x.{i}.log")[0] for i in range(1, 6)} <= {"1", "2"}


def test_tee_shows_bytes_as_they_come(tmp_path):
    script = r"printf '\r 10%%'; sleep 5"
    with subprocess.Popen(
        [sys.executable, RUN, "--tee", "x.log", "bash", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE
    ) as process:
        start = time.monotonic()
        assert os.read(process.stdout.fileno(), 100) == b"\r 10%"
        assert time.monotonic() - start < 4
        process.terminate()
    assert "\r 10%" in (tmp_path / "x.log").read_bytes().decode()


def test_tee_goes_on_logging_when_its_reader_leaves(tmp_path):
    script = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done"
    with subprocess.Popen(
        [sys.executable, RUN, "--tee", "x.log", "bash", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.wait(20) == 0
    assert body(tmp_path / "x.log") == list("123456")


@pytest.mark.parametrize("options", [(), ("--tee",)])
def test_a_task_ends_with_its_command_whatever_that_has_left_running(tmp_path, options):
    start = time.monotonic()
    result = launch(*options, "x.log", "bash", "-c", "sleep 30 & echo $!; exit 4", cwd=tmp_path)
    assert result.returncode == 4 and time.monotonic() - start < 20
    wait_for(lambda: not alive(int(body(tmp_path / "x.log")[0])))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_survives_the_launcher(tmp_path, number):
    """Each task leaves a grandchild in the background, as data loaders and torchrun do."""
    script = "sleep 60 & echo $! >child.JOB; echo $$ >task.JOB; wait"
    process = subprocess.Popen(
        [sys.executable, RUN, "--nj-max", "2", "JOB=1:2", "x.JOB.log", "bash", "-c", script],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    files = [tmp_path / f"{name}.{i}" for name in ("child", "task") for i in (1, 2)]
    wait_for(lambda: all(file.exists() and file.read_text().strip() for file in files))
    pids = [int(file.read_text()) for file in files]
    process.send_signal(number)
    assert process.wait(20) == (-9 if number == signal.SIGKILL else 128 + number)
    wait_for(lambda: not any(alive(pid) for pid in pids))
    wait_for(lambda: "; signal 15) at" in (tmp_path / "x.1.log").read_text())


def test_nothing_survives_an_end_that_comes_while_the_command_starts(tmp_path):
    """The signal finds the wrapper with a command that runs, but before it knows of it."""
    slow = "import subprocess, time\nstart = subprocess.Popen.__init__\n"
    slow += "def slow(*args, **more):\n    start(*args, **more)\n    time.sleep(1)\nsubprocess.Popen.__init__ = slow\n"
    (tmp_path / "sitecustomize.py").write_text(slow)
    process = subprocess.run(
        [sys.executable, RUN, "x.log", "bash", "-c", "sleep 60 & echo $! >child; kill -TERM $PPID; wait"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, stderr=subprocess.DEVNULL, timeout=30,
    )  # fmt: skip
    assert process.returncode == 143
    wait_for(lambda: not alive(int((tmp_path / "child").read_text())))


def test_a_task_that_ignores_sigterm_is_killed(tmp_path):
    script = "trap '' TERM; echo $$ >pid; sleep 60 & wait; sleep 60"
    process = subprocess.Popen([sys.executable, RUN, "--grace", "0.3", "x.log", "bash", "-c", script], cwd=tmp_path)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    process.terminate()
    assert process.wait(10) == 143
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["JOB=1:2", "x.log", "true"], "put JOB in its name"),
        (["JOB=0:2", "x.JOB.log", "true"], "wanted 1 <= first <= last"),
        (["--mem", "lots", "x.log", "true"], "not an amount of memory"),
        (["--time", "soon", "x.log", "true"], "not a time limit"),
        (["--nj-max", "0", "x.log", "true"], "not a number from 1"),
        (["--nonsense", "x.log", "true"], "unrecognized arguments: --nonsense"),
        (["--tee", "JOB=1:2", "x.JOB.log", "true"], "--tee is for one task"),
        (["x.log"], "a log file and a command are needed"),
        (["--backend", "moon", "x.log", "true"], "invalid choice"),
    ],
)
def test_usage_errors(tmp_path, words, message):
    result = launch(*words, cwd=tmp_path)
    assert result.returncode == 2 and message in result.stderr
    assert not list(tmp_path.iterdir())
