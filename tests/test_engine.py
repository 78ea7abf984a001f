"""utils/recipe.sh: which stages run, when they run again, and what remains after a kill."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from tests.recipe_folder import ROOT, RecipeFolder
from tests.test_launcher import alive, wait_for

OPTIONS = """conf=conf/a.yaml     # the experiment
pause=0              # seconds a command takes; goes through the environment, so it changes no stamp
"""
# Every command notes that it ran in the file `ran`, and writes its output under a temporary name first.
STAGES = r"""export pause
exp=exp/$(basename "$conf" .yaml)
make='set -e; echo "$1" >>ran; mkdir -p "$(dirname "$2")"
cat "${@:3}" >"$2.partial"; sleep "$pause"; mv "$2.partial" "$2"'
stage 1 prepare       --in corpus --out data/wav.scp -- bash -c "$make" - prepare data/wav.scp corpus/a corpus/b
stage 2 simulate_dev  --in conf/sets.yaml data/wav.scp --out data/dev --nj "$nj" --
  bash -c "$make" - simulate_dev.JOB data/dev/JOB data/wav.scp conf/sets.yaml
stage 2 simulate_test --in data/wav.scp --out data/test -- bash -c "$make" - simulate_test data/test data/wav.scp
stage 3 train         --in "$conf" data/dev --out "$exp/best.pt" --log "$exp/log" --
  bash -c "$make" - train "$exp/best.pt" "$conf"
stage 6 score         --in "$exp/best.pt" data/test --out "$exp/scores" --
  bash -c "$make" - score "$exp/scores" "$exp/best.pt" data/test
stage 6 results       --in "$exp/scores" --out RESULTS.md -- bash -c "$make" - results RESULTS.md "$exp/scores"
end_stages
""".replace(" --\n ", " -- \\\n ")
ALL = ["prepare", "simulate_dev.1", "simulate_dev.2", "simulate_test", "train", "score", "results"]
OUTPUTS = ["data/wav.scp", "data/dev/1", "data/test", "exp/a/best.pt", "exp/a/scores", "RESULTS.md"]
NJ = ("--nj", "2")


@pytest.fixture
def recipe(tmp_path):
    return demo(tmp_path)


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory):
    recipe = demo(tmp_path_factory.mktemp("finished"))
    assert recipe.run(*NJ).returncode == 0
    ran(recipe)
    return recipe


@pytest.fixture
def finished(finished_once, tmp_path):
    """A recipe that has run, with its stamps (a copy keeps the files' times)."""
    shutil.copytree(finished_once.top, tmp_path, dirs_exist_ok=True)
    return RecipeFolder(tmp_path)


def demo(top) -> RecipeFolder:
    recipe = RecipeFolder(top, OPTIONS, STAGES)
    for name in ("conf/a.yaml", "conf/b.yaml", "conf/sets.yaml", "corpus/a", "corpus/b"):
        recipe.write(name, f"{name}\n")
    return recipe


def ran(recipe: RecipeFolder) -> list[str]:
    """What has run since the last look."""
    path = recipe.path("ran")
    names = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return sorted(names, key=lambda name: (ALL.index(name), name))


def products(recipe: RecipeFolder) -> dict[str, bytes]:
    return {name: data for name, data in recipe.tree().items() if not re.search(r"(^|/)(log|\.stamps|ran)(/|$)", name)}


def small(top, stages: str, options: str = "") -> RecipeFolder:
    return RecipeFolder(top, options, stages + "end_stages\n")


# ------------------------------------------------------------------------------------------------------ what is due


def test_everything_runs_once(recipe):
    result = recipe.run(*NJ)
    assert result.returncode == 0, result.stderr
    assert ran(recipe) == ALL
    assert recipe.path("RESULTS.md").read_text() == "conf/a.yaml\ncorpus/a\ncorpus/b\n"
    start = time.monotonic()
    result = recipe.run(*NJ)
    assert time.monotonic() - start < 3
    assert result.returncode == 0 and ran(recipe) == []
    assert result.stderr.count("up to date") == 7 and "nothing to do: all 6 stages are up to date" in result.stderr


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("conf/a.yaml", ["train", "score", "results"]),
        ("conf/sets.yaml", ["simulate_dev.1", "simulate_dev.2", "train"]),  # train makes the same: score stays
        ("corpus/b", ALL),
        ("data/test", ["score", "results"]),
        ("conf/b.yaml", []),
    ],
)
def test_a_changed_input_reruns_what_depends_on_it(finished, file, expected):
    finished.write(file, "changed\n")
    assert finished.run(*NJ).returncode == 0
    assert ran(finished) == expected


def test_touched_but_equal_files_rerun_nothing(finished):
    os.utime(finished.path("conf/a.yaml"), (1, 1))
    finished.run(*NJ)
    assert ran(finished) == []


def test_a_missing_output_is_made_again_in_full(finished):
    for name in ("1", "2"):
        finished.path(f"data/dev/{name}").unlink()
    finished.path("data/dev").rmdir()
    finished.path("exp/a/scores").write_text("")
    finished.run(*NJ)
    # The folder's times are new, so train runs; what it makes is the same.
    assert ran(finished) == ["simulate_dev.1", "simulate_dev.2", "train", "score"]


def test_how_a_stage_is_run_is_no_input(finished):
    assert finished.run("--nj", "5", "--cmd", "utils/run.py --nj-max 1", "--pause", "0.01").returncode == 0
    assert ran(finished) == []


def test_another_experiment_shares_the_data_and_keeps_its_own_stamps(finished):
    finished.run(*NJ, "--conf", "conf/b.yaml")
    assert ran(finished) == ["train", "score", "results"]
    finished.run(*NJ)
    assert ran(finished) == ["results"]  # the one file that both write


def test_force(finished):
    finished.run(*NJ, "--force", "--stage", "score")
    assert ran(finished) == ["score", "results"]


def test_big_files_count_by_size_and_time(tmp_path):
    recipe = small(tmp_path, "stage 1 one --in big --out out -- bash -c 'echo >>ran; echo >out'\n")
    with open(recipe.path("big"), "wb") as file:
        file.truncate(65 << 20)
    start = time.monotonic()
    assert recipe.run().returncode == 0
    assert "nothing to do" in recipe.run().stderr
    assert time.monotonic() - start < 5
    os.utime(recipe.path("big"), (1, 1))
    recipe.run()
    assert recipe.path("ran").read_text() == "\n\n"


# ------------------------------------------------------------------------------------------------ selection, dry run


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--stage", "2", "--stop_stage", "2"], ["simulate_dev.1", "simulate_dev.2", "simulate_test"]),
        (["--stage", "4", "--stop-stage", "5"], None),
        (["--stage", "simulate_test", "--stop_stage", "3"], ["simulate_test", "train"]),
        (["--stage", "5"], ["score", "results"]),
        (["--stage", "5", "--stop_stage", "score"], ["score"]),
        (["--stop_stage", "1000", "--stage", "results"], ["results"]),
        (["--stage", "results", "--stop_stage", "train"], None),
        (["--stage", "7"], None),
        (["--stage", "-1"], None),
        (["--stage", "trian"], None),
        (["--stop_stage", "scores"], None),
        (["--stop_stage", "0"], None),
    ],
)
def test_selection(finished, options, expected):
    result = finished.run(*NJ, "--force", *options)
    assert result.returncode == (2 if expected is None else 0), result.stderr
    assert ran(finished) == (expected or [])


def test_a_mistyped_stage_is_named_before_anything_runs(recipe):
    result = recipe.run("--stop_stage", "trian")
    assert result.returncode == 2 and "did you mean train?" in result.stderr
    assert not recipe.path("exp").exists()


def test_list_stages(recipe):
    before = recipe.tree()
    result = recipe.run("--list-stages")
    assert result.stdout.splitlines()[1:4] == [" 2  simulate_dev", " 2  simulate_test", " 3  train"]
    assert recipe.tree() == before


def test_dry_run_writes_nothing_and_tells_what_would_run(recipe):
    before = recipe.tree()
    result = recipe.run("--dry_run")
    assert result.returncode == 0 and "6 of 6 stages would run" in result.stderr
    assert recipe.tree() == before
    recipe.run(*NJ)
    recipe.write("conf/a.yaml", "changed\n")
    before = recipe.tree()
    result = recipe.run("--dry-run", "true")
    assert recipe.tree() == before
    assert re.findall(r"\] (\w+): would run", result.stderr) == ["train", "score", "results"]


def test_dry_run_without_the_corpus(recipe):
    for name in ("corpus/a", "corpus/b"):
        recipe.path(name).unlink()
    recipe.path("corpus").rmdir()
    result = recipe.run("--dry_run")
    assert result.returncode == 0 and "prepare: would stop: missing input: corpus" in result.stderr


def test_in_a_folder_with_an_awkward_name(tmp_path):
    recipe = small(tmp_path / "it's $HOME (ü)", "stage 1 one --out out --nj 2 -- bash -c 'pwd; echo >out'\n")
    assert recipe.run(*NJ).returncode == 0
    assert str(recipe.folder) in recipe.path("exp/log/one.2.log").read_text()


def test_which_launcher_a_stage_gets(tmp_path):
    stages = """train_cmd='utils/run.py --num-threads 2' decode_cmd='utils/run.py --num-threads 3'
cuda_cmd='utils/run.py --num-threads 4'
stage 1 plain -- true
stage 1 none --gpu 0 -- true
stage 1 array --nj 1 --log exp/log -- true
stage 1 gpu --nj 1 --gpu auto -- true
stage 1 own --cmd 'utils/run.py --num-threads 5' --gpu 1 --mem 4G --time 1:00:00 -- true
"""
    recipe = small(tmp_path, stages)
    assert recipe.run().returncode == 0
    logs = ("plain", "none", "array.1", "gpu.1", "own")
    threads = [re.search(r"threads=(\d)", recipe.path(f"exp/log/{name}.log").read_text())[1] for name in logs]
    assert threads == list("22345")
    assert recipe.run("--cmd", "utils/run.py --num-threads 6", "--force").returncode == 0
    assert all("threads=6" in recipe.path(f"exp/log/{name}.log").read_text() for name in logs)


def test_tse_cmd_replaces_the_launcher(tmp_path):
    recipe = small(tmp_path, "stage 1 one -- echo hi\n")
    assert recipe.run(TSE_CMD="utils/run.py --num-threads 3").returncode == 0
    assert "threads=3" in recipe.path("exp/log/one.log").read_text()
    result = small(tmp_path / "b", "stage 1 one -- echo hi\n").run(TSE_BACKEND="moon")
    assert result.returncode == 2 and "invalid choice: 'moon'" in result.stderr


# ----------------------------------------------------------------------------------------------------------- failing


def test_missing_input(recipe):
    result = recipe.run("--conf", "conf/none.yaml", "--stage", "train")
    assert result.returncode == 3 and "[3] train: missing input: conf/none.yaml" in result.stderr
    assert ran(recipe) == []


def test_missing_output_is_an_error_and_the_next_run_starts_afresh(tmp_path):
    recipe = small(tmp_path, "stage 1 one --out out --nj 2 -- bash -c 'echo >>ran; [ ! -e good ] || echo >out'\n")
    result = recipe.run()
    assert result.returncode == 3 and "did not make: out" in result.stderr
    recipe.path("good").touch()
    assert recipe.run().returncode == 0
    assert recipe.path("ran").read_text() == "\n" * 4


@pytest.mark.parametrize(("code", "expected"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (255, 1)])
def test_exit_codes(tmp_path, code, expected):
    recipe = small(
        tmp_path, f"stage 1 one --nj 2 -- bash -c 'echo task JOB says why; exit {code}'\nstage 2 two -- true\n"
    )
    result = recipe.run()
    assert result.returncode == expected
    assert f"2 of 2 tasks failed: 2 exit {code}" in result.stderr and "task 1 says why" in result.stderr
    assert "[2]" not in result.stderr


def test_the_line_to_resume_with_is_a_command(recipe):
    recipe.path("conf/a.yaml").unlink()
    recipe.path("conf/a.yaml").mkdir()  # cat fails
    result = recipe.run(*NJ, "--conf", "conf/a.yaml", "--pause=0")
    assert result.returncode == 1
    line = re.search(r"to resume: (.*)", result.stderr)[1]
    recipe.path("conf/a.yaml").rmdir()
    recipe.write("conf/a.yaml", "a\n")
    ran(recipe)
    assert subprocess.run(["bash", "-c", line], capture_output=True, check=False).returncode == 0
    assert ran(recipe) == ["train", "score", "results"]


def test_output_goes_to_the_terminal_and_to_a_log(tmp_path):
    recipe = small(
        tmp_path, "stage 1 one -- bash -c 'echo out; echo err >&2'\nstage 1 two --nj 1 --log log -- echo quiet\n"
    )
    result = recipe.run()
    assert result.stdout == "out\nerr\n"
    assert recipe.path("exp/log/one.log").read_text().splitlines()[3:5] == ["out", "err"]
    assert "quiet" in recipe.path("log/two.1.log").read_text()


def test_arguments_reach_the_command_as_they_are(tmp_path):
    recipe = small(
        tmp_path, "stage 1 one --in \"$corpus\" -- printf '%s|' \"$corpus\" 'a(b)' \"it's\" ''\n", "corpus=x # c\n"
    )
    name = "sp ace $(touch hit) `touch hit` ü"
    recipe.write(f"{name}/x", "x")
    assert recipe.run("--corpus", name).stdout == f"{name}|a(b)|it's||"
    assert not recipe.path("hit").exists()


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("stage 2 a -- true\nstage 1 b -- true\n", "numbers must not fall"),
        ("stage 1 a -- true\nstage 2 a -- true\n", "another stage of this name"),
        ("stage train -- true\n", "wanted: stage NUMBER NAME"),
        ("stage 1 a --in x\n", "no -- COMMAND"),
        ("stage 1 a --in x --\n", "no -- COMMAND"),
        ("stage 1 a --inputs x -- true\n", "--inputs: no such option"),
        ("stage 1 a x -- true\n", "x: no such option"),
        ("stage 1 a --nj many -- true\n", "--nj many: wanted a number"),
    ],
)
def test_mistakes_in_a_recipe(tmp_path, stages, message):
    result = small(tmp_path, stages).run()
    assert result.returncode == 2 and message in result.stderr


def test_end_stages_forgotten(tmp_path):
    result = RecipeFolder(tmp_path, "", "stage 1 a -- true\n").run()
    assert result.returncode == 2 and "end_stages is missing" in result.stderr


def test_a_command_that_is_not_installed(tmp_path):
    result = small(tmp_path, "stage 1 a -- no-such-command x\n").run()
    assert result.returncode == 3 and "no-such-command: command not found" in result.stderr


# ------------------------------------------------------------------------------------------------- kills, two at once


def running_pids(folder) -> list[int]:
    """Processes whose working directory is the recipe's folder."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdecimal() and os.readlink(f"/proc/{entry}/cwd") == str(folder) and alive(int(entry)):
                found.append(int(entry))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_survives_a_signal(recipe, number):
    process = recipe.start(*NJ, "--pause", "30", "--stage", "1")
    wait_for(recipe.path("data/wav.scp.partial").exists)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number and "interrupted" in errors
    assert running_pids(recipe.folder) == []


def test_nothing_survives_sigkill(recipe):
    process = recipe.start(*NJ, "--pause", "30")
    wait_for(recipe.path("data/wav.scp.partial").exists)
    process.kill()
    process.communicate(timeout=20)
    wait_for(lambda: running_pids(recipe.folder) == [])


@pytest.mark.parametrize(
    "stage",
    [
        "data/dev/1",
        *(pytest.param(name, marks=pytest.mark.slow) for name in OUTPUTS if name != "data/dev/1"),
    ],
)
def test_sigkill_in_any_stage_then_the_same_command(tmp_path, finished_once, stage):
    killed = demo(tmp_path)
    process = killed.start(*NJ, "--pause", "0.15")
    wait_for(lambda: killed.path(f"{stage}.partial").exists() or killed.path(stage).exists(), 30)
    process.kill()
    process.communicate(timeout=20)
    result = killed.run(*NJ)  # at once: it waits for what the killed one has left
    assert result.returncode == 0, result.stderr
    assert products(killed) == products(finished_once)
    assert "nothing to do" in killed.run(*NJ).stderr


def test_only_unfinished_tasks_of_a_killed_array_run_again(tmp_path):
    command = "echo JOB >>ran; mkdir -p out; [ JOB != 3 ] || [ -e quick ] || sleep 30; echo JOB >out/JOB"
    recipe = small(tmp_path, f"stage 1 one --in conf --out out --nj 3 -- bash -c '{command}'\n")
    recipe.write("conf", "a")
    process = recipe.start("--cmd", "utils/run.py --nj-max 3")
    status = recipe.path("exp/log/.status")
    started = recipe.path("ran")
    wait_for(
        lambda: status.exists() and len(list(status.glob("*.json"))) == 2 and len(started.read_text().split()) == 3
    )
    process.kill()
    process.communicate(timeout=20)
    recipe.path("quick").touch()
    result = recipe.run()
    assert result.returncode == 0 and "2 of 3 tasks were finished before" in result.stderr
    assert sorted(recipe.path("ran").read_text().split()) == ["1", "2", "3", "3"]
    recipe.path("conf").write_text("b")  # another key: all of them
    recipe.run()
    assert len(recipe.path("ran").read_text().split()) == 7


def test_two_at_once(recipe):
    process = recipe.start(*NJ, "--pause", "30")
    wait_for(recipe.path("data/wav.scp.partial").exists)
    result = recipe.run(*NJ)
    assert result.returncode == 1 and f"is being run by process {process.pid}" in result.stderr
    assert recipe.run("--dry_run").returncode == 0  # reads only
    result = recipe.run("--lock", "false", "--stage", "6", "--stop_stage", "score")
    assert result.returncode == 3 and "missing input: exp/a/best.pt" in result.stderr  # it got past the lock
    process.terminate()
    process.communicate(timeout=20)
    assert recipe.run(*NJ, "--stop_stage", "1").returncode == 0


def test_two_that_start_together(recipe):
    """The second looks while the lock still has the number of an earlier run, which has ended."""
    recipe.write("exp/.stamps/lock", "999999999\n")
    late = "exec {fd}<>exp/.stamps/lock; flock $fd; echo; sleep 0.5; echo $$ >exp/.stamps/lock; exec sleep 30"
    with subprocess.Popen(["bash", "-c", late], cwd=recipe.folder, stdout=subprocess.PIPE) as first:
        first.stdout.readline()
        result = recipe.run(*NJ, "--stop_stage", "1")
        first.kill()
    assert result.returncode == 1 and f"is being run by process {first.pid};" in result.stderr


# ----------------------------------------------------------------------------------------------------- the dispatcher


def test_run_sh_lists_recipes_and_finds_them(recipe):
    def top(*words):
        return subprocess.run([recipe.top / "run.sh", *words], cwd="/", capture_output=True, text=True, check=False)

    assert top("--list").stdout == "egs/demo/t1                  A recipe for tests.\n"
    help_text = top("--help").stdout
    assert "./run.sh --list" in help_text and "egs/demo/t1" in help_text
    for name in ("egs/demo/t1", "egs/demo/t1/", recipe.folder, recipe.script):
        assert " 3  train" in top(name, "--list_stages").stdout
    result = top("egs/demo/t2")
    assert result.returncode == 2 and "egs/demo/t1" in result.stderr


# ------------------------------------------------------------------------------------------------ the recipes we ship

RECIPES = sorted(str(path.parent.relative_to(ROOT)) for path in ROOT.glob("egs/*/*/run.sh"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_answers(name, tmp_path):
    recipe = RecipeFolder(tmp_path, "", "")
    folder = tmp_path / name
    shutil.copytree(ROOT / name, folder, ignore=shutil.ignore_patterns("data", "exp", "log"))
    before = sorted(folder.rglob("*"))
    for option in ("--help", "--list_stages", "--dry_run"):
        result = subprocess.run([folder / "run.sh", option], capture_output=True, text=True, cwd="/", check=False)
        assert result.returncode == 0, result.stderr
        if option == "--list_stages":
            assert result.stdout.split()[::2] == sorted(result.stdout.split()[::2])
    assert sorted(folder.rglob("*")) == before
    listed = subprocess.run([recipe.top / "run.sh", "--list"], capture_output=True, text=True, check=True).stdout
    assert name in listed or "TEMPLATE" in name


def shipped(top, name, *options):
    """A copy of one of the recipes, asked what it would run."""
    RecipeFolder(top, "", "")
    folder = top / name
    shutil.copytree(ROOT / name, folder, ignore=shutil.ignore_patterns("data", "exp", "log"), dirs_exist_ok=True)
    command = [folder / "run.sh", "--dry_run", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_stages_of_a_conf_with_an_awkward_name(tmp_path):
    name = "egs/mini/tse1"
    conf = tmp_path / name / "conf" / "my-gan.2.yaml"
    conf.parent.mkdir(parents=True)
    conf.write_text("init_from: exp/tse_a-b/best.pt\n")
    result = shipped(tmp_path, name, "--tag", "a-b", "--finetune", "conf/my-gan.2.yaml")
    assert result.returncode == 0, result.stderr
    assert "[4] finetune_my_gan_2_a_b: would run" in result.stderr and "--exp exp/my-gan.2_a-b " in result.stderr


@pytest.mark.parametrize("options", [("--tag", "b"), ("--conf", "conf/long.yaml")])
def test_a_conf_that_starts_from_another_experiment_than_this_run_is_refused(tmp_path, options):
    result = shipped(tmp_path, "egs/mini/tse1", "--finetune", "conf/gan.yaml", *options)
    assert result.returncode == 2 and "conf/gan.yaml: does not start from exp/" in result.stderr


@pytest.mark.parametrize(
    ("name", "options", "code", "told"),
    [
        ("drums/sep1", ("--museval", "no"), 2, "--museval no: yes, or leave it out"),
        ("drums/sep1", ("--clips", "/gone"), 0, "prepare_clips: would stop: missing input: /gone"),
        ("drums/sep1", ("--clips", "/gone"), 0, "--corpus CORPUS --clips CLIPS --conf conf/small.yaml"),
        ("polsess/sep1", ("--conf", "conf/my.yaml"), 2, "its name has to begin with the goal: es, eb or sb"),
        ("mini/tse1", ("--seed", "3"), 0, "--command ./run.sh egs/mini/tse1 --seed 3 --conf conf/tse.yaml"),
        ("mini/sep1", ("--seed", "3"), 0, "--command ./run.sh egs/mini/sep1 --mix 2mix --seed 3 --conf"),
    ],
)
def test_options_of_our_recipes_are_heeded_or_refused(tmp_path, name, options, code, told):
    result = shipped(tmp_path, f"egs/{name}", *options)
    assert result.returncode == code and told in result.stderr, result.stderr
