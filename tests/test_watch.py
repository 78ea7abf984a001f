"""tse watch: what it tells of trainings that run, end, fall silent or go wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tse_lib.bin.main import main
from tse_lib.config import read_yaml

TERMS = [{"name": "neg_si_sdr", "weight": 1.0}, {"name": "amplitude", "weight": 0.5}]


def make_run(
    exp: Path, steps: int = 1000, max_steps: int = 2000, scores=(1.0, 3.0, 2.5), ago_s: float = 0.0, curriculum=(),
    patience: int = 0, **last,
) -> Path:  # fmt: skip
    """A run with a line every 50 steps of 0.1 s; `last` is put in its last line."""
    exp.mkdir(parents=True)
    train = {"max_steps": max_steps, "valid_every": 200, "patience": patience, "of_a_later_version": {"x": 1}}
    if "level_db" in last:
        train["gan"] = {"level_ratio": [0.5, 2.0], "collapse_below": 0.01, "discriminator_only_steps": 100}
    conf = {"seed": 0, "loss": TERMS, "train": train, "curriculum": list(curriculum)}
    (exp / "config.yaml").write_text(yaml.safe_dump(conf))
    lines = [
        {"step": step, "loss": 5 - step / 1000, "neg_si_sdr": 4.0, "skipped": 0, "lr": 1e-3, "seconds": step / 10}
        for step in range(50, steps + 1, 50)
    ]
    if lines:
        lines[-1] |= last
    checks = [{"step": 200 * number, "si_sdri": score} for number, score in enumerate(scores, 1)]
    write_log(exp, "train", lines)
    write_log(exp, "valid", checks)
    for path in (exp / "log").iterdir():
        os.utime(path, (time.time() - ago_s,) * 2)
    return exp


def write_log(exp: Path, name: str, lines: list[dict]) -> None:
    (exp / "log").mkdir(exist_ok=True)
    (exp / "log" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def watch(capsys):
    """Look once at these folders: (exit code, stdout, stderr)."""

    def run(*words):
        code = main(["watch", *map(str, words), "--once"])
        return code, *capsys.readouterr()

    return run


def warnings(text: str) -> list[str]:
    return re.findall(r"^  ! (.*)", text, re.M)


def test_a_run_in_the_middle(tmp_path, watch):
    code, out, err = watch(make_run(tmp_path / "tse", scores=(1.0, 3.0, 2.5), cpu_s=0.09, weight_amplitude=0.7))
    assert (code, err) == (0, "") and warnings(out) == []
    assert re.search(r"weight_amplitude +0\.700$", out, re.M) and "cpu_s" not in out
    assert "step 1000 of 2000, running" in out and " 50 %, 0:01:40 so far, 0:01:40 to go" in out
    assert re.search(r"loss +4\.000 ", out) and re.search(r"neg_si_sdr +4\.000 ", out)
    assert re.search(r"SI-SDRi \(dB\) +2\.50 .*at step 600, best 3\.00 dB at step 400", out)
    assert "learning rate 1.00e-03" in out and "100 ms a step" in out
    assert "\x1b" not in out


def test_validations_count_for_the_time_left_but_not_for_a_step(tmp_path, watch):
    exp = make_run(tmp_path / "tse")
    lines = [json.loads(line) for line in (exp / "log/train.jsonl").read_text().splitlines()]
    for line in lines:
        line["seconds"] += 20 * ((line["step"] - 1) // 200)  # a validation takes as long as 200 steps
    write_log(exp, "train", lines)
    _, out, _ = watch(exp)
    assert "100 ms a step" in out and re.search(r"0:03:[0-9]+ to go", out)


@pytest.mark.parametrize(("options", "told"), [
    ({"steps": 2000}, "step 2000 of 2000, finished"),
    ({"scores": (3.0, 1.0, 2.0), "patience": 2}, "step 1000 of 2000, out of patience"),
])  # fmt: skip
def test_what_has_ended_is_not_silent(tmp_path, watch, options, told):
    _, out, _ = watch(make_run(tmp_path / "tse", ago_s=1e6, **options))
    assert told in out and "to go" not in out and warnings(out) == []


@pytest.mark.parametrize(("options", "told"), [
    ({"ago_s": 3000}, r"nothing was logged for 0:50:0\d: is the process dead"),
    ({"loss": float("nan"), "neg_si_sdr": float("inf")}, "not finite: loss, neg_si_sdr"),
    ({"skipped": 4}, "gradients that are not finite"),
    ({"scores": (1.0, 5.0, 4.0, 3.0, 2.0)}, "falling for 3 validations"),
    ({"scores": (3.0, 2.0, 2.5, 2.6), "patience": 4}, "3 validations without a new best; it ends after 1 more"),
    ({"level_db": 12.0, "discriminator": 2.0}, r"4 times as loud as their targets, outside gan.level_ratio \[0.5, 2"),
    ({"level_db": 1.0, "discriminator": 0.002}, "discriminator's loss is 0.002, below gan.collapse_below 0.01"),
    ({"data_s": 0.06, "forward_s": 0.03, "backward_s": 0.01}, "60 % of a step is waiting for data"),
])  # fmt: skip
def test_what_looks_wrong_is_told(tmp_path, watch, options, told):
    _, out, _ = watch(make_run(tmp_path / "tse", **options))
    assert len(warnings(out)) == 1 and re.search(told, warnings(out)[0]), out


@pytest.mark.parametrize("options", [
    {"scores": (5.0, 4.0, 3.0, 3.5, 3.2)}, {"scores": (3.0, 2.0, 2.5), "patience": 8}, {"scores": ()}, {"ago_s": 100},
    {"level_db": -3.0, "discriminator": 0.3}, {"data_s": 0.01, "forward_s": 0.09},
])  # fmt: skip
def test_what_looks_right_is_not(tmp_path, watch, options):
    assert warnings(watch(make_run(tmp_path / "tse", **options))[1]) == []


def test_a_slow_log_is_given_time(tmp_path, watch):
    """A line every 20 minutes: an hour's silence is nothing yet."""
    exp = make_run(tmp_path / "tse", ago_s=3600)
    write_log(exp, "train", [{"step": 50 * n, "loss": 1.0, "seconds": 1200 * n} for n in range(1, 10)])
    os.utime(exp / "log/train.jsonl", (time.time() - 3600,) * 2)
    assert warnings(watch(exp)[1]) == []


def test_counts_of_steps_skipped_bad_files_and_restarts(tmp_path, watch):
    exp = make_run(tmp_path / "tse")
    write_log(exp, "train", [
        {"step": 50, "loss": 1.0, "skipped": 5, "bad_files": 2},
        {"step": 150, "loss": 1.0, "skipped": 2, "bad_files": 1},
        {"step": 200, "loss": 1.0, "skipped": 0, "bad_files": 0},
    ])  # fmt: skip
    write_log(exp, "restarts", [{"step": 150, "exit_code": 1}])
    assert (
        "  7 steps skipped, their gradient not finite, 3 mixtures drawn anew because of bad files, 1 rest"
        in watch(exp)[1]
    )


def test_where_the_curriculum_is(tmp_path, watch):
    stretches = [{"until_step": 500, "simulation": {}}, {"until_step": 1500, "simulation": {}}]
    assert "curriculum: stretch 2 of 3, until step 1500" in watch(make_run(tmp_path / "a", curriculum=stretches))[1]
    out = watch(make_run(tmp_path / "b", steps=1600, curriculum=stretches))[1]
    assert "curriculum: stretch 3 of 3, since step 1500" in out


def test_its_values_are_those_of_the_conf(tmp_path, watch):
    conf = read_yaml(Path(__file__).parent.parent / "egs/mini/tse1/conf/long.yaml")
    exp = make_run(tmp_path / "tse", steps=1500)
    (exp / "config.yaml").write_text(yaml.safe_dump(conf))
    assert "until step 3000: num_talkers 2, snr_db 12.5 to 25" in watch(exp)[1]


def test_what_is_unknown_or_broken_is_no_trouble(tmp_path, watch):
    exp = make_run(tmp_path / "tse", discriminator=0.25, note="words", nested={"a": 1}, nothing=None)
    with open(exp / "log/train.jsonl", "a") as file:
        file.write('[]\n"text"\n{"loss": 3}\n\x00\x00\x00\n{"step": 1050, "lo')
    out = watch(exp)[1]
    assert "step 1000 of 2000" in out and re.search(r"discriminator +0\.250", out) and "words" not in out


def test_before_the_first_line(tmp_path, watch):
    exp = make_run(tmp_path / "tse", steps=0, scores=())
    _, out, _ = watch(exp)
    assert "step 0 of 2000, no step logged yet" in out and warnings(out) == []


def test_several_runs_and_folders_that_are_none(tmp_path, watch):
    make_run(tmp_path / "a"), make_run(tmp_path / "b"), (tmp_path / "log").mkdir(), (tmp_path / "notes").touch()
    code, out, _ = watch(*sorted(tmp_path.iterdir()))
    assert code == 0 and out.count(" of 2000, running") == 2
    code, _, err = watch(tmp_path / "log")
    assert code == 3 and "config.yaml" in err
    code, _, err = watch(tmp_path / "missing")
    assert code == 3 and f"{tmp_path}/missing: no such folder" in err


# ---------------------------------------------------------------------------------------------------------- following


def start(exp: Path, **options) -> subprocess.Popen:
    program = "import sys; from tse_lib.bin.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", program, "watch", exp, "--interval", "0.1"], **options)


def read_until(stream: int, wanted: str, seconds: float = 10) -> str:
    text, end = "", time.monotonic() + seconds
    while wanted not in text:
        assert time.monotonic() < end, text
        text += os.read(stream, 65536).decode()
    return text


def test_it_follows_until_the_run_has_ended(tmp_path):
    exp = make_run(tmp_path / "tse")
    process = start(exp, stdout=subprocess.PIPE, text=True)
    read_until(process.stdout.fileno(), "100 ms a step")
    with open(exp / "log/train.jsonl", "a") as file:
        file.write('{"step": 2000, "loss": 0.5, "seconds": 200}\n')
    rest, _ = process.communicate(timeout=10)
    assert process.returncode == 0 and rest.count("step 2000 of 2000, finished") == 1


@pytest.mark.parametrize("no_colour", [False, True])
def test_a_terminal_is_given_back_after_ctrl_c(tmp_path, no_colour):
    exp = make_run(tmp_path / "tse", ago_s=3000)
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "LINES": "24", "COLUMNS": "60", "NO_COLOR": "1" * no_colour}
    process = start(exp, stdout=its, stderr=its, env=environment)
    os.close(its)
    text = read_until(ours, "\x1b[J")
    process.send_signal(signal.SIGINT)
    text += read_until(ours, "100 ms a step\r\n")
    assert process.wait(10) == 0 and "Traceback" not in text
    assert text.index("\x1b[?1049h") < text.index("\x1b[?1049l") and "\x1b[?25h" in text
    assert ("\x1b[33;1m  ! nothing was logged" in text) != no_colour
    drawn = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text.partition("\x1b[?1049l")[0])
    assert max(map(len, drawn.splitlines())) <= 60
    os.close(ours)


def test_ascii_terminals_get_ascii(tmp_path):
    exp = make_run(tmp_path / "tse")
    program = "import sys; from tse_lib.bin.main import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-c", program, "watch", exp, "--once"]
    result = subprocess.run(words, env=environment, capture_output=True, check=True)
    assert b"[###############---------------]" in result.stdout
