"""utils/keep_training.sh: what it restarts, when it gives up, signals, its log and its systemd unit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "utils" / "keep_training.sh"

# A training as the watchdog sees one. Each start takes the next line of `plan`: the step it gets to, its exit code.
TRAINING = """
number=$(($(cat starts 2>/dev/null || echo 0) + 1))
echo $number >starts
read -r step code < <(sed -n "${number}p" plan)
mkdir -p exp/log
echo "{\\"step\\": $step, \\"loss\\": -1.5}" >>exp/log/train.jsonl
exit $code
"""


def keep(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, "--exp", "exp", *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def train(folder: Path, plan: list[tuple[int, int]], *options: str, **environment: str):
    """Keep a training going whose starts end as planned: (result, number of starts)."""
    (folder / "plan").write_text("".join(f"{step} {code}\n" for step, code in plan))
    result = keep(folder, *options, "--", "bash", "-c", TRAINING, **environment)
    return result, int((folder / "starts").read_text())


def restarts(folder: Path) -> list[tuple[int, int, int]]:
    lines = [json.loads(line) for line in (folder / "exp/log/restarts.jsonl").read_text().splitlines()]
    assert all(time.strptime(line["time"], "%Y-%m-%dT%H:%M:%SZ") for line in lines)
    return [(line["exit_code"], line["step"], line["wait_s"]) for line in lines]


def test_a_training_that_ends_well_is_left_alone(tmp_path):
    result, starts = train(tmp_path, [(100, 0)])
    assert (result.returncode, starts, result.stderr) == (0, 1, "")
    assert not (tmp_path / "exp/log/restarts.jsonl").exists()


def test_it_is_started_until_it_ends_well_and_each_restart_has_a_line(tmp_path):
    plan = [(50, 1), (100, 75), (150, 139), (200, 0)]
    result, starts = train(tmp_path, plan, "--first_wait_s", "0")
    assert (result.returncode, starts) == (0, 4)
    assert restarts(tmp_path) == [(1, 50, 0), (75, 100, 0), (139, 150, 0)]


@pytest.mark.parametrize("code", [4, 75])
def test_it_gives_up_when_it_gets_no_further(tmp_path, code):
    """Neither a bad file nor a command that always asks to be started again may spin for ever."""
    result, starts = train(tmp_path, [(50, code)] * 9, "--first_wait_s", "0")
    assert (result.returncode, starts) == (code, 3)
    assert "step 50" in result.stderr and "giving up" in result.stderr
    (tmp_path / "starts").unlink()
    assert train(tmp_path, [(50, code)] * 9, "--first-wait-s=0", "--max_crashes=2")[1] == 2


def test_progress_gives_it_another_three_crashes(tmp_path):
    plan = [(50, 1), (50, 1), (100, 1), (100, 1), (150, 1), (100, 1), (200, 0)]
    result, starts = train(tmp_path, plan, "--first_wait_s", "0")
    assert (result.returncode, starts) == (0, 7)


def test_steps_before_the_last_checkpoint_are_no_progress(tmp_path):
    result, starts = train(tmp_path, [(90, 1), (60, 1), (80, 1), (100, 0)], "--first_wait_s", "0")
    assert (result.returncode, starts) == (1, 3)


def test_the_wait_doubles_up_to_a_limit_and_begins_anew_after_progress(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sleep").write_text('#!/bin/sh\necho "$1" >>sleeps\n')
    (tmp_path / "bin" / "sleep").chmod(0o755)
    plan = [(50, 1)] * 4 + [(50, 75), (50, 1), (100, 1), (150, 0)]
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    result, _ = train(tmp_path, plan, "--max_crashes", "7", "--max_wait_s", "60", PATH=path)
    assert result.returncode == 0
    waits = ["10", "20", "40", "60", "0", "60", "10"]
    assert (tmp_path / "sleeps").read_text().split() == waits
    assert [str(wait_s) for _, _, wait_s in restarts(tmp_path)] == waits


def test_a_line_cut_short_does_not_count(tmp_path):
    (tmp_path / "exp/log").mkdir(parents=True)
    (tmp_path / "exp/log/train.jsonl").write_text('{"step": 50, "loss": 1.0}\n{"step": 100, "lo')
    keep(tmp_path, "--max_crashes", "2", "--first_wait_s", "0", "--", "false")
    assert restarts(tmp_path) == [(1, 50, 0)]


def test_arguments_arrive_as_they_are(tmp_path):
    words = ["it's", "", "two\nlines", "$HOME", "*", "--exp", "a b", "--"]
    assert keep(tmp_path, "--", "bash", "-c", 'printf "%s\\0" "$@" >got', "_", *words).returncode == 0
    assert (tmp_path / "got").read_text().split("\0")[:-1] == words


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_a_signal_reaches_the_command_and_ends_both(tmp_path, name):
    script = f"trap 'echo saved >got; exit 75' {name[3:]}; touch ready; while true; do sleep 0.01; done"
    process = subprocess.Popen([SCRIPT, "--exp", "exp", "--", "bash", "-c", script], cwd=tmp_path, text=True)
    wait_for((tmp_path / "ready").exists)
    process.send_signal(getattr(signal, name))
    assert process.wait(10) == 75
    assert (tmp_path / "got").read_text() == "saved\n" and not (tmp_path / "exp/log/restarts.jsonl").exists()


def test_a_signal_ends_the_wait_before_a_restart(tmp_path):
    process = subprocess.Popen([SCRIPT, "--exp", "exp", "--", "bash", "-c", "echo >>starts; exit 1"], cwd=tmp_path)
    wait_for((tmp_path / "exp/log/restarts.jsonl").exists)
    process.terminate()
    assert process.wait(5) == 128 + signal.SIGTERM
    assert (tmp_path / "starts").read_text() == "\n"


def test_what_a_crash_has_left_ends_before_the_restart(tmp_path):
    script = "sleep 60 & echo $! >>left; exit 1"
    keep(tmp_path, "--first_wait_s", "0", "--max_crashes", "2", "--", "bash", "-c", script)
    pids = (tmp_path / "left").read_text().split()
    assert len(pids) == 2
    wait_for(lambda: not any(alive(pid) for pid in pids))


def test_two_trainings_of_one_folder_are_refused(tmp_path):
    process = subprocess.Popen([SCRIPT, "--exp", "exp", "--", "bash", "-c", "touch ready; sleep 60"], cwd=tmp_path)
    try:
        wait_for((tmp_path / "ready").exists)
        result = keep(tmp_path, "--", "touch", "second")
        assert result.returncode == 1 and "another training" in result.stderr
        assert not (tmp_path / "second").exists()
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--", "true", "--exp"], None),
        (["true"], "-- is missing"),
        (["--"], "no command"),
        (["--max_crashs", "3", "--", "true"], "no such option"),
        (["--max_crashes", "--", "true"], "no value"),
        (["--max_wait_s", "1m", "--", "true"], "whole number"),
        (["--exp", "", "--", "true"], "--exp DIR is missing"),
    ],
)
def test_usage(tmp_path, words, told):
    result = keep(tmp_path, *words)
    assert result.returncode == (2 if told else 0)
    assert (told or "") in result.stderr
    assert not told or not (tmp_path / "exp").exists()


def test_help_tells_every_option():
    result = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True)
    for option in ("--exp", "--max_crashes", "--first_wait_s", "--max_wait_s", "--log", "--print_systemd"):
        assert f"  {option} " in result.stdout


def test_the_unit_quotes_what_systemd_would_read(tmp_path):
    folder = tmp_path / "a folder 50%"
    folder.mkdir()
    words = ["echo", 'say "$HOME"', "100%", "back\\slash", "two\nlines", ";", "", "--print_systemd"]
    result = keep(folder, "--print_systemd", "--max_crashes", "5", "--", *words)
    assert result.returncode == 0 and list(folder.iterdir()) == []
    lines = result.stdout.splitlines()
    path = str(folder).replace("%", "%%")
    assert f"WorkingDirectory={path}" in lines and "Restart=no" in lines
    assert (
        f'ExecStart="{SCRIPT}" "--exp" "exp" "--max_crashes" "5" "--" "{shutil.which("echo")}" '
        r'"say \"$$HOME\"" "100%%" "back\\slash" "two\nlines" ";" "" "--print_systemd"'
    ) in lines
    if shutil.which("systemd-analyze"):
        (tmp_path / "training.service").write_text(result.stdout)
        checked = subprocess.run(
            ["systemd-analyze", "verify", "--user", "--man=no", tmp_path / "training.service"],
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "training.service" not in checked.stderr  # where it tells what it does not understand


def wait_for(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
