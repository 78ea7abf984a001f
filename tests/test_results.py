"""Summaries, their intervals, and RESULTS.md."""

import itertools
import json
import shutil
import subprocess

import numpy as np
import pytest
from scored_set import make_set, write_logs

from tse_lib.bin import results as results_verb
from tse_lib.bin import score as score_verb
from tse_lib.evaluation import results
from tse_lib.evaluation.summary import bootstrap_interval, statistics, summarise
from tse_lib.manifest import read_mixtures


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A recipe folder with one scored experiment: mixtures 2 and 5 have no target, 4 is confused."""
    folder = tmp_path_factory.mktemp("recipe")
    data, exp = folder / "data" / "test", folder / "exp" / "net"
    make_set(data, exp / "test" / "wav", num_mixtures=6, absent=(2, 5), confused=(4,))
    for job in ("1/2", "2/2"):
        parts = ["--out", str(exp / "test" / "scores.part"), "--job", job]
        score_verb.main(["--data", str(data), "--est", str(exp / "test" / "wav"), *parts])
    write_logs(exp)
    (folder / "conf").mkdir()
    (folder / "conf" / "net.yaml").write_text("seed: 7\n")
    return folder


@pytest.fixture
def recipe(scored, tmp_path, monkeypatch):
    """A copy of it to work in."""
    shutil.copytree(scored, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def collect(*options: str) -> dict:
    results_verb.main(
        [
            "--conf",
            "conf/net.yaml",
            "--exp",
            "exp/net",
            "--sets",
            "test",
            "--command",
            "./run.sh --stage 3 | tee",
            *options,
        ]
    )
    with open("exp/net/test/summary.json", encoding="utf-8") as file:
        return json.load(file)


# ------------------------------------------------------------------------------------------------------------- summary


NUMBERS = itertools.count()


def line(value, speaker="a", present=True, **changes) -> dict:
    metrics = {"si_sdr": value, "si_sdr_mixture": 0.0, "si_sdri": value, "tp_attenuation_db": 3.0, "confused": False}
    absent = {"ta_attenuation_db": value, "false_accept": value is not None and value < 20}
    conditions = {
        "target_spk": speaker, "target_present": present, "num_talkers": 2, "same_gender": None, "noise": True,
        "reverberant": False, "num_enrolls": 1,
    }  # fmt: skip
    return {"mix_id": f"m{next(NUMBERS)}", **conditions, **(metrics if present else absent), **changes}


def test_mean_std_and_interval_of_known_values():
    values = np.random.default_rng(1).normal(10, 3, 400)
    entry = statistics([line(float(value), f"s{index % 20}") for index, value in enumerate(values)], "all")["si_sdri"]
    assert entry["mean"] == pytest.approx(values.mean(), abs=1e-5)
    assert entry["std"] == pytest.approx(values.std(ddof=1), abs=1e-5) and entry["n"] == 400
    half = 1.96 * values.std(ddof=1) / np.sqrt(400)  # what the normal distribution gives
    assert entry["ci95"] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.06)


def test_the_interval_over_speakers_is_wider_when_speakers_differ():
    lines = [line(10.0 * speaker + 0.01 * take, f"s{speaker}") for speaker in range(5) for take in range(20)]
    entry = statistics(lines, "all")["si_sdri"]
    assert np.ptp(entry["ci95_speakers"]) > 2 * np.ptp(entry["ci95"])


def test_the_bootstrap_equals_the_plain_one():
    values = np.random.default_rng(2).exponential(5, (60, 1))
    ours = bootstrap_interval(values, np.ones_like(values), np.random.default_rng(3))
    generator = np.random.default_rng(4)
    means = [generator.choice(values[:, 0], 60).mean() for _ in range(4000)]
    assert ours[:, 0] == pytest.approx(np.percentile(means, [2.5, 97.5]), rel=0.05)


def test_values_without_a_number_are_counted_and_not_averaged():
    lines = [line(4.0), line(6.0), line(None, reasons={"si_sdri": "because"})]
    summary = summarise(lines)
    assert summary["metrics"]["si_sdri"]["mean"] == 5 and summary["metrics"]["si_sdri"]["n"] == 2
    assert summary["nulls"] == {"si_sdri": {"because": 1}}


def test_a_metric_that_failed_everywhere_stays_visible():
    lines = [line(4.0, pesq_wb=None, reasons={"pesq_wb": "No utterances detected"})] * 3
    summary = summarise(lines)
    assert summary["metrics"]["pesq_wb"] == {"mean": None, "ci95": None, "std": None, "n": 0}
    assert summary["nulls"] == {"pesq_wb": {"No utterances detected": 3}}


def test_one_mixture_has_a_mean_and_no_interval():
    assert summarise([line(4.0)])["metrics"]["si_sdri"] == {"mean": 4.0, "ci95": None, "std": None, "n": 1}


def test_present_and_absent_only():
    present, absent = (
        summarise([line(4.0), line(5.0)]),
        summarise([line(30.0, present=False), line(3.0, present=False)]),
    )
    assert "false_accept_rate" not in present["metrics"] and present["n_absent"] == 0
    assert absent["metrics"]["false_accept_rate"]["mean"] == 0.5 and set(absent["metrics"]) == {
        "ta_attenuation_db",
        "false_accept_rate",
    }


def test_groups_split_by_condition():
    lines = [line(1.0, num_talkers=2, same_gender="same"), line(3.0, num_talkers=3, same_gender="different")]
    groups = summarise(lines)["groups"]
    assert groups["num_talkers=2"]["si_sdri"]["mean"] == 1 and groups["gender=different"]["si_sdri"]["mean"] == 3
    assert groups["noise=yes"]["si_sdri"]["n"] == 2


# ------------------------------------------------------------------------------------------------------------- collect


def test_the_verb_writes_scores_and_summary(recipe):
    summary = collect()
    lines = [json.loads(text) for text in open("exp/net/test/scores.jsonl", encoding="utf-8")]
    assert [entry["mix_id"] for entry in lines] == [
        mixture.mix_id for mixture in read_mixtures("data/test/mixtures.jsonl")
    ]
    assert list(summary)[:5] == ["n", "conf", "seed", "commit", "command"]
    assert (summary["n"], summary["n_present"], summary["n_absent"], summary["seed"]) == (6, 4, 2, 7)
    assert summary["metrics"]["confusion_rate"]["mean"] == 0.25
    assert summary["metrics"]["false_accept_rate"]["mean"] == 0.5
    assert summary["metrics"]["ta_attenuation_db"]["mean"] == pytest.approx((6.0206 + 40) / 2, abs=0.01)
    assert summary["reference"] == "dry" and summary["training"] == {"steps": 1000, "seconds": 100.0, "cpu_s": None}
    assert {"num_talkers=2", "num_talkers=3", "gender=same", "gender=different"} <= set(summary["groups"])


def test_everything_is_the_same_the_second_time(recipe):
    files = ["exp/net/test/scores.jsonl", "exp/net/test/summary.json", "RESULTS.md", "exp/net/report/index.html"]
    collect()
    first = [open(name, "rb").read() for name in files]
    collect()
    assert [open(name, "rb").read() for name in files] == first


def test_results_md(recipe):
    (recipe / "conf" / "net.md").write_text("Trained twice, this is the *better* one.\n")
    (recipe / "conf" / "published.yaml").write_text(
        "- {metric: si_sdri, value: 14.2, system: SomeNet, source: 'A. Body, 2020'}\n"
        "- {metric: si_sdri, value: 99, system: Other, source: x, conf: conf/other.yaml}\n"
    )
    summary = collect()
    text = (recipe / "RESULTS.md").read_text(encoding="utf-8")
    mean, (low, high) = summary["metrics"]["si_sdri"]["mean"], summary["metrics"]["si_sdri"]["ci95"]
    for piece in (
        "## net", "conf: `conf/net.yaml`, seed 7, commit `", "./run.sh --stage 3 | tee", "the target's dry speech",
        "trained 1000 steps in 100 s", f"{mean:.2f} [{low:.2f}, {high:.2f}]", "| 2 talkers |", "| same gender |",
        "(confused) | 25.0 %", "(false accept) | 50.0 %", "Trained twice, this is the *better* one.",
        "| 14.2 | SomeNet | A. Body, 2020 |",
    ):  # fmt: skip
        assert piece in text, piece
    assert "Other" not in text and "cores" in text


def test_results_md_lists_all_experiments(recipe):
    first = collect()
    other = recipe / "exp" / "another" / "test"
    other.mkdir(parents=True)
    (other / "summary.json").write_text(json.dumps({**first, "exp": "another", "conf": None, "seed": None}))
    collect()
    text = (recipe / "RESULTS.md").read_text(encoding="utf-8")
    assert text.index("## another") < text.index("## net") and "no conf" in text


def test_a_wrong_published_file_is_told(recipe):
    (recipe / "conf" / "published.yaml").write_text("- {metrics: si_sdri, value: 1, system: a, source: b}\n")
    with pytest.raises(ValueError, match=r"published.yaml\[0\]: unknown key 'metrics'; did you mean 'metric'"):
        collect()


def test_a_mixture_scored_twice_is_told(recipe):
    part = recipe / "exp/net/test/scores.part/1of2.jsonl"
    part.with_name("1of9.jsonl").write_bytes(part.read_bytes())
    with pytest.raises(ValueError, match=r"1of9.jsonl: 'mix000' is scored in 1of2.jsonl as well"):
        collect()


def test_what_a_killed_share_left_is_not_read(recipe):
    part = recipe / "exp/net/test/scores.part/1of2.jsonl"
    part.with_name(".partial-1of2abcd.jsonl").write_bytes(part.read_bytes())
    collect()


def test_a_mixture_not_scored_is_told(recipe):
    (recipe / "exp/net/test/scores.part/2of2.jsonl").unlink()
    with pytest.raises(ValueError, match=r"3 of 6 mixtures are not scored, as 'mix001'"):
        collect()


def test_scores_of_an_older_list_are_told(recipe):
    mixtures = recipe / "data/test/mixtures.jsonl"
    mixtures.write_text("".join(mixtures.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"'mix005' is no mixture of this set"):
        collect()


def test_nothing_scored_is_told(recipe):
    for part in (recipe / "exp/net/test/scores.part").iterdir():
        part.unlink()
    with pytest.raises(FileNotFoundError, match="no scores here; run the score stage"):
        collect()


def test_the_seed_is_that_of_the_training(recipe):
    (recipe / "exp/net/config.yaml").write_text("seed: 8\n")
    assert collect()["seed"] == 8


# ------------------------------------------------------------------------------------------------------------ the rest


def test_the_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert results.current_commit() == "unknown"

    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True
        )

    (tmp_path / "egs").mkdir()
    for name in ("code.py", "egs/RESULTS.md"):
        (tmp_path / name).write_text("1\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    clean = results.current_commit()
    assert len(clean) == 40
    (tmp_path / "egs" / "RESULTS.md").write_text("2\n")  # what is being made does not count
    (tmp_path / "notes.txt").write_text("untracked\n")
    monkeypatch.chdir(tmp_path / "egs")
    assert results.current_commit() == clean
    (tmp_path / "code.py").write_text("2\n")
    assert results.current_commit() == f"{clean}-dirty"


def test_a_log_cut_short_by_a_kill(tmp_path):
    assert results.training(tmp_path) is None
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "train.jsonl").write_text('{"step": 1}\n{"st\n{"step": 2, "seconds": 3, "cpu_s": 4}\n{"st')
    assert results.training(tmp_path) == {"steps": 2, "seconds": 3, "cpu_s": 4}


@pytest.mark.parametrize(
    ("seconds", "text"), [(42.0, "42 s"), (600.0, "10 min"), (12240.0, "3.4 h")]
)  # fmt: skip
def test_duration(seconds, text):
    assert results.duration(seconds) == text


def test_links_lead_to_the_headings():
    assert results.link("tse_v1.5 Wide") == "[tse_v1.5 Wide](#tse_v15-wide)"
    assert results.link("sep-2") == "[sep-2](#sep-2)"


def test_cells_cannot_break_a_table():
    assert results.table(["a|b"], [["c\nd"]]) == ["| a\\|b |", "|---|", "| c d |"]
