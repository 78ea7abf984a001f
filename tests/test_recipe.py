"""The mini recipe with its true commands on a tiny corpus: what runs again, what a kill changes, several processes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tests.recipe_folder import ROOT, RecipeFolder
from tests.test_engine import running_pids
from tests.test_launcher import wait_for
from tests.test_training import assert_equal, without_clock
from tse_lib import checkpoint

TSE = Path(sys.executable).parent / "tse"
REASON = "espeakng_loader is missing: pip install -e .[mini]"
REAL = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("espeakng_loader") is None, reason=REASON),
    pytest.mark.skipif(not TSE.exists(), reason=f"{TSE} is missing: pip install -e ."),
]
CORPUS_SIZE = "--num_talkers 4 3 3 --num_utts 3 --num_clips 1 1 1"
SIMULATION = {**tiny.SIMULATION, "segment_s": 1.0, "num_talkers": 2, "enroll_s": 1.0}
OPTIONS = ("--nj", "2", "--nproc", "1")
STAGES = ["prepare", "simulate", "render", "train", "calibrate", "infer_test", "score_test", "results"]
STEPS = 30


class Mini(RecipeFolder):
    """egs/mini/tse1 with a few seconds of everything, below `top`."""

    def __init__(self, top: Path, create: bool = True) -> None:
        super().__init__(top)
        self.folder = top / "egs" / "mini" / "tse1"
        self.script = self.folder / "run.sh"
        if not create:
            return
        shutil.copytree(ROOT / "egs/mini/tse1", self.folder, ignore=shutil.ignore_patterns("data", "exp", "RESULTS.md"))
        shutil.copytree(ROOT / "utils", top / "utils", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("path.sh", "cmd.sh", "run.sh"):
            shutil.copy(ROOT / name, top / name)
        (top / "tse_lib").symlink_to(ROOT / "tse_lib")
        text = self.script.read_text()
        prepare = '--seed "$seed"'
        assert text.count(prepare) == 1
        self.script.write_text(text.replace(prepare, f"{prepare} {CORPUS_SIZE}"))
        self.write_conf("tse")
        self.write_sets(seed=1)

    def write_conf(self, name: str, **train: int | float) -> None:
        conf = tiny.values()
        conf["train"] |= {"max_steps": STEPS, "batch_size": 2, "save_every": 2, "valid_every": 10, "log_every": 2}
        conf["train"] |= train
        self.write(f"conf/{name}.yaml", yaml.safe_dump(conf))

    def write_sets(self, seed: int) -> None:
        parts = {"dev": "dev", "test": "test", "test_enrolls": "test"}
        sets = {
            name: {"num_mixtures": 6, "speech": part, "noise": f"noise_{part}", "simulation": SIMULATION}
            for name, part in parts.items()
        }
        self.write("conf/sets.yaml", yaml.safe_dump({"seed": seed, "sample_rate": tiny.RATE, "sets": sets}))

    def run(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.script, *OPTIONS, *options],
            env={**os.environ, "TSE_PYTHON": sys.executable, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.script, *OPTIONS, *options],
            env={**os.environ, "TSE_PYTHON": sys.executable},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # a process group of its own, so that all of it can be killed
        )

    def log_of(self, stage: str) -> Path:
        folders = {
            "train": "exp/tse/log",
            "calibrate": "exp/tse/log",
            "results": "exp/tse/log",
            "infer_test": "exp/tse/test/log",
        }
        folder = folders.get(stage, "exp/tse/test/log" if stage == "score_test" else "exp/log")
        array = stage in ("render", "infer_test", "score_test")
        return self.path(f"{folder}/{stage}{'.1' if array else ''}.log")

    def stamped(self, stage: str) -> bool:
        """Whether the stage has ended well."""
        return any(
            not path.name.endswith((".running", ".new")) for path in self.path("exp/.stamps").glob(f"{stage}-????????*")
        )


def copy_of(recipe: Mini, top: Path) -> Mini:
    shutil.copytree(recipe.top, top, symlinks=True, dirs_exist_ok=True)  # it keeps the files' times
    return Mini(top, create=False)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    """A run that nothing has interrupted; read only."""
    recipe = Mini(tmp_path_factory.mktemp("mini"))
    result = recipe.run()
    assert result.returncode == 0, result.stderr
    assert stages_run(result) == STAGES
    return recipe


@pytest.fixture
def finished(finished_once, tmp_path):
    return copy_of(finished_once, tmp_path)


def stages_run(result: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"\] (\w+): running", result.stderr)


def states(recipe: Mini) -> dict[str, tuple[int, int, bytes]]:
    """Every file with its times, except the lock, which names its holder."""
    return {
        str(path.relative_to(recipe.folder)): (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes())
        for path in recipe.folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


# ------------------------------------------------------------------------------------------------------ what is equal

NO_PRODUCT = re.compile(r"(^|/)(\.stamps|tensorboard|\.status)/|\.log$")


def products(recipe: Mini) -> dict[str, object]:
    """Everything that a run has made, without times."""
    made = {}
    for name, data in recipe.tree().items():
        if NO_PRODUCT.search(name):
            continue
        made[name] = timeless(recipe.path(name), data)
    return made


def timeless(path: Path, data: bytes) -> object:
    if path.suffix == ".pt":
        return without_clock(checkpoint.load(path))
    if path.suffix == ".jsonl" and path.parent.name == "log":
        return [without_clock(json.loads(line)) for line in data.splitlines()]
    if path.name == "summary.json":
        summary = json.loads(data)
        summary["training"] |= {"seconds": None, "cpu_s": None}
        return summary
    if path.name in ("RESULTS.md", "index.html"):
        text, count = re.subn(r"(trained \d+ steps in )\d+(\.\d+)? (s|min|h)\b", r"\1", data.decode())
        text = re.sub(
            r"^(\| \w+ \| \w+ \| [\d,]+ \| [\d.]+ \| \d+ \| )[\d.]+", r"\1", text, flags=re.MULTILINE
        )  # CPU s
        assert count > 0
        return text
    return data


def assert_same_products(recipe: Mini, expected: Mini) -> None:
    ours, theirs = products(recipe), products(expected)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert_equal(ours[name], theirs[name], name)


def leftovers(recipe: Mini) -> list[str]:
    return [str(path) for path in recipe.folder.rglob("*") if ".partial" in path.name or path.suffix == ".running"]


# ------------------------------------------------------------------------------------------------------ what runs again


class TestWhatRunsAgain:
    pytestmark = REAL

    def test_the_second_run_changes_no_file(self, finished):
        before = states(finished)
        assert not leftovers(finished) and running_pids(finished.folder) == []
        result = finished.run()
        assert result.returncode == 0 and "nothing to do: all 8 stages are up to date" in result.stderr
        assert states(finished) == before

    def test_other_fixed_mixtures(self, finished):
        """They are drawn and rendered; then training must be told that the checkpoint was chosen by others."""
        estimates = finished.path("exp/tse/test/wav/test-00000.wav").read_bytes()
        finished.write_sets(seed=2)
        result = finished.run()
        assert result.returncode == 4
        assert stages_run(result) == ["simulate", "render", "train"]
        assert_one_line(result, r"other data \(the development mixtures changed\); to train anew remove exp/tse, ")
        shutil.rmtree(finished.path("exp/tse"))
        result = finished.run()
        assert result.returncode == 0, result.stderr
        assert stages_run(result) == ["train", "calibrate", "infer_test", "score_test", "results"]
        assert finished.path("exp/tse/test/wav/test-00000.wav").read_bytes() != estimates
        assert "nothing to do" in finished.run().stderr

    def test_another_corpus(self, finished):
        """A model must not be scored on talkers that it may have been trained on before."""
        result = finished.run("--seed", "7")
        assert result.returncode == 4
        assert stages_run(result) == ["prepare", "simulate", "render", "train"]
        assert_one_line(result, r"\(what it is trained on and the development mixtures changed\)")

    def test_another_conf(self, finished, finished_once):
        finished.write_conf("tse", lr=5e-4)
        result = finished.run()
        assert result.returncode == 4
        assert stages_run(result) == ["train"]
        assert_one_line(
            result, r"another conf \(train.lr was 0.001, is 0.0005\); to train anew remove exp/tse, .* another name"
        )
        finished.write_conf("tse")  # as it was: nothing is lost, and nothing is trained again
        result = finished.run()
        assert result.returncode == 0 and stages_run(result) == ["train"]
        assert_same_products(finished, finished_once)

        finished.write_conf("tse", lr=5e-4)
        shutil.rmtree(finished.path("exp/tse"))
        result = finished.run()
        assert result.returncode == 0, result.stderr
        assert stages_run(result) == ["train", "calibrate", "infer_test", "score_test", "results"]
        assert yaml.safe_load(finished.path("exp/tse/config.yaml").read_text())["train"]["lr"] == 5e-4

    def test_another_experiment_leaves_the_first_alone(self, finished):
        finished.write_conf("other", lr=5e-4)
        before = states(finished)
        result = finished.run("--conf", "conf/other.yaml")
        assert result.returncode == 0, result.stderr
        assert stages_run(result) == ["train", "calibrate", "infer_test", "score_test", "results"]
        after = states(finished)
        assert [name for name in before if before[name] != after[name]] == ["RESULTS.md"]
        assert "[tse](#tse)" in finished.path("RESULTS.md").read_text()
        assert "[other](#other)" in finished.path("RESULTS.md").read_text()


def assert_one_line(result: subprocess.CompletedProcess[str], pattern: str) -> None:
    """The log ends with one line that says what to do, and no traceback."""
    output = result.stdout + result.stderr
    assert len(re.findall(rf"^tse \w+: error: .*{pattern}", output, re.MULTILINE)) == 1, output
    assert "Traceback" not in output


# ------------------------------------------------------------------------------------------------------ kills

# What a stage writes first: when it is there, the stage is at work.
AT_WORK = {
    "prepare": "data/corpus/train001/*.flac",
    "simulate": "data/dev/*mixtures.jsonl",
    "render": "data/dev/mixtures/*/*.flac",
    "train": "exp/tse/last.pt",
    "calibrate": "exp/tse/log/calibrate.log",
    "infer_test": "exp/tse/test/wav/*.wav",
    "score_test": "exp/tse/test/scores.part/.partial*",
    "results": "exp/tse/test/*scores.jsonl",
}


def kill(recipe: Mini, whole_group: bool, ready: Callable[[], bool], sleep_s: float, *options: str) -> None:
    process = recipe.start(*options)
    try:
        wait_for(lambda: ready() or process.poll() is not None, 120)
        time.sleep(sleep_s)
    finally:
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    assert process.wait(20) == -signal.SIGKILL, "the run was over before it could be killed"


@pytest.mark.parametrize("whole_group", [False, True], ids=["run.sh", "group"])
class TestKills:
    pytestmark = REAL

    def test_sigkill_in_each_stage_changes_nothing(self, tmp_path, finished_once, whole_group):
        """One folder, killed in every stage in turn and always started again with the same command."""
        recipe = Mini(tmp_path)
        for stage in STAGES:
            if whole_group:  # at the beginning
                kill(recipe, whole_group, recipe.log_of(stage).exists, 0.2)
            else:
                kill(recipe, whole_group, lambda: any(recipe.folder.glob(AT_WORK[stage])), 0.0)  # noqa: B023
            assert not recipe.stamped(stage), f"{stage} was over before it could be killed"
        result = recipe.run()
        assert result.returncode == 0, result.stderr
        assert stages_run(result) == ["results"]
        wait_for(lambda: running_pids(recipe.folder) == [])
        assert leftovers(recipe) == []
        assert_same_products(recipe, finished_once)
        assert "nothing to do" in recipe.run().stderr


# ------------------------------------------------------------------------------------------------ several processes


class TestTwoProcesses:
    pytestmark = REAL

    def test_the_same_curve_and_bits_through_kills(self, finished, finished_once):
        """What two processes learn is what one learns but for rounding, and a kill changes nothing."""
        words = ("--nproc", "2", "--stage", "train", "--stop_stage", "train")
        recipe = finished
        for name in ("two", "killed"):
            recipe.write_conf(name)
        result = recipe.run(*words, "--conf", "conf/two.yaml")
        assert result.returncode == 0, result.stderr
        for whole_group, step in ((False, 2), (True, 10)):
            last = recipe.path("exp/killed/last.pt")
            kill(
                recipe,
                whole_group,
                lambda: last.exists() and checkpoint.load(last)["step"] >= step,  # noqa: B023
                0.0,
                *words,
                "--conf",
                "conf/killed.yaml",
            )
            wait_for(lambda: running_pids(recipe.folder) == [], 20)
            assert checkpoint.load(last)["step"] < STEPS
        result = recipe.run(*words, "--conf", "conf/killed.yaml")
        assert result.returncode == 0, result.stderr
        assert leftovers(recipe) == [] and running_pids(recipe.folder) == []
        for name in ("last.pt", "best.pt", "log/train.jsonl", "log/valid.jsonl", "config.yaml"):
            both = [recipe.path(f"exp/{exp}/{name}") for exp in ("two", "killed")]
            assert_equal(*(timeless(path, path.read_bytes()) for path in both), name)

        def curve(exp: str) -> list[tuple[int, float, float]]:
            lines = recipe.path(f"exp/{exp}/log/train.jsonl").read_text().splitlines()
            return [(line["step"], line["loss"], line["grad_norm"]) for line in map(json.loads, lines)]

        assert len(curve("two")) == STEPS // 2
        for one, two in zip(curve("tse"), curve("two"), strict=True):
            assert two == pytest.approx(one, rel=2e-3, abs=2e-3)

    def test_no_process_survives_the_one_that_started_it(self, finished):
        finished.write_conf("long", max_steps=100_000, save_every=2)
        process = finished.start("--nproc", "2", "--stage", "train", "--conf", "conf/long.yaml")
        try:
            wait_for(finished.path("exp/long/last.pt").exists, 120)
            workers = [pid for pid in running_pids(finished.folder) if "-m tse_lib.bin.main train" in command_of(pid)]
            launchers = {parent_of(pid) for pid in workers} - set(workers)
            assert len(launchers) == 1 and len(workers) >= 2
            os.kill(launchers.pop(), signal.SIGKILL)
            wait_for(lambda: running_pids(finished.folder) == [], 20)
            assert process.wait(20) == 1
        finally:
            process.kill()
            process.wait()
            for pid in running_pids(finished.folder):
                os.kill(pid, signal.SIGKILL)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


# ------------------------------------------------------------------------------------------------------ the engine


def test_a_run_waits_for_the_end_of_what_a_killed_group_has_left(tmp_path):
    """The launcher is killed, too; the command takes its time to end, and must not write beside its successor."""
    slow_end = "trap 'sleep 3; echo old >>order; exit 1' TERM; touch begun; while :; do sleep 0.05; done"
    command = f"if [ -e quick ]; then echo new >>order; else {slow_end}; fi"
    recipe = RecipeFolder(tmp_path, "", f'stage 1 one --out order -- bash -c "{command}"\nend_stages\n')
    process = subprocess.Popen(
        [recipe.script], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_for(recipe.path("begun").exists)
    recipe.path("quick").touch()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    result = recipe.run()
    assert result.returncode == 0 and "waiting for the end of what the killed process" in result.stderr
    assert recipe.path("order").read_text().split() == ["old", "new"]


def test_half_files_of_a_kill_are_removed(tmp_path):
    """In the stage's own folders and beside its files and logs; elsewhere, and without the lock, they may be in use."""
    stages = "stage 1 one --out made/folder made/file --log logs -- bash -c 'mkdir -p made/folder; echo >made/file'\n"
    recipe = RecipeFolder(tmp_path, "", stages + "end_stages\n")
    own = ["made/folder/deep/.partial-abc.flac", "made/.partial-abc", "logs/.partial-abc"]
    others = ["made/other/.partial-abc", "exp/.partial-abc", ".partial-abc"]
    for name in own + others:
        recipe.write(name, "half")
    assert recipe.run("--lock", "false").returncode == 0
    assert all(recipe.path(name).exists() for name in own + others)
    assert recipe.run("--force").returncode == 0
    assert [name for name in own + others if recipe.path(name).exists()] == others
