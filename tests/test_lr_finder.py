"""The learning-rate range test: what it suggests of a known curve, where it stops, and that it leaves a run alone."""

import json
import math

import numpy as np
import pytest
import torch
import yaml

from tests import tiny
from tests.test_training import CPU, conf_with, run
from tse_lib.bin.main import main
from tse_lib.data.dataset import DrawnMixtures
from tse_lib.simulation.sample import read_corpus
from tse_lib.training.lr_finder import find_lr, has_diverged, suggest
from tse_lib.training.steps import STEPS


@pytest.fixture(scope="module")
def corpus(corpus_dir):
    return read_corpus(corpus_dir / "train", corpus_dir / "noise")


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("offset", [0.0, -30.0])
def test_it_suggests_where_a_known_curve_falls_fastest(noise, offset):
    """6 dB down around 1e-3, half a decade wide, then up from 1e-1 on; losses may be negative."""
    decades = np.linspace(-7, 0, 300)
    curve = offset - 6 / (1 + np.exp(-(decades + 3) / 0.2)) + 20 * np.maximum(0, decades + 1)
    loss = curve + noise * np.random.default_rng(0).standard_normal(300)
    found = suggest((10**decades).tolist(), loss.tolist(), 15, "")
    assert math.log10(found.steepest) == pytest.approx(-3, abs=0.05 + 0.2 * noise)
    assert -3.3 < math.log10(found.tenth) < -1.7


def test_a_loss_that_only_rises_suggests_nothing():
    found = suggest([1e-3, 1e-2, 1e-1], [1.0, 2.0, 3.0], 1.0, "")
    assert found.steepest is found.tenth is None


def test_divergence_is_a_rise_as_high_as_the_fall_was_deep():
    start, noise = [0.0] * 20, [0.3, -0.3] * 50
    fallen = [*start, *[-5.0] * 20]
    assert not has_diverged([*fallen, *[4.0] * 15], 15)
    assert has_diverged([*fallen, *[6.0] * 15], 15)
    assert not has_diverged(noise, 15)
    assert has_diverged([*noise, *[1.0] * 15], 15)


def test_of_a_training(corpus):
    """Between no change at all and divergence lies what this tiny network is trained with in other tests."""
    conf = conf_with({"max_steps": 2})  # that these are fewer does not matter
    found = find_lr(conf, corpus, CPU, 1e-5, 100.0, 60)
    assert len(found.lr) == len(found.loss) == len(found.smooth)
    assert found.lr[:2] == pytest.approx([1e-5, 1e-5 * 1e7 ** (1 / 59)])
    assert 1e-5 < found.steepest < 1 and found.tenth < 1
    torch.manual_seed(9)  # the global state must not matter
    assert find_lr(conf, corpus, CPU, 1e-5, 1e-4, 20) == find_lr(conf, corpus, CPU, 1e-5, 1e-4, 20)


def test_a_short_ramp_does_not_end_by_chance(corpus):
    """At these rates nothing is learned: the losses are those of the batches."""
    assert not find_lr(conf_with(), corpus, CPU, 1e-9, 1e-8, 20).ended


def test_of_repeated_batches(corpus, monkeypatch):
    """With `overfit_batches` the targets that are present are those of the steps that are repeated."""
    counted, step = [], STEPS["supervised"]

    def count(state, run, batches, counts):
        counted.append((counts["present"], sum(int(batch["present"].sum()) for batch in batches)))
        return step(state, run, batches, counts)

    monkeypatch.setitem(STEPS, "supervised", count)
    find_lr(conf_with({"overfit_batches": 2}, simulation={"target_absent": 0.5}), corpus, CPU, 1e-6, 1e-5, 20)
    assert counted and all(told == heard for told, heard in counted)


def test_a_gradient_that_is_not_finite_ends_it(corpus, monkeypatch):
    original = DrawnMixtures.__getitem__

    def poisoned(self, index):
        item = original(self, index)
        return {**item, "mixture": item["mixture"] * (float("nan") if index >= 2 * 30 else 1)}

    monkeypatch.setattr(DrawnMixtures, "__getitem__", poisoned)
    found = find_lr(conf_with(), corpus, CPU, 1e-7, 1e-3, 100)
    assert len(found.lr) == 30 and found.ended.startswith("not finite at 1.6e-06")


@pytest.mark.parametrize(
    ("low", "high", "steps", "told"), [(1e-3, 1e-4, 100, "two rising ones"), (1e-6, 1.0, 5, "20 steps or more")]
)
def test_ramps_that_are_none(corpus, low, high, steps, told):
    with pytest.raises(ValueError, match=told):
        find_lr(conf_with(), corpus, CPU, low, high, steps)


def test_the_command_writes_its_own_folder_and_nothing_else(corpus, corpus_dir, tmp_path, capsys):
    exp = tmp_path / "exp"
    run(conf_with({"max_steps": 2}), corpus, corpus_dir, exp)
    before = {path: path.read_bytes() for path in exp.rglob("*") if path.is_file()}
    wanted = tiny.values()
    wanted["train"]["lr"] = 5.0  # neither this nor the checkpoint matters
    (tmp_path / "conf.yaml").write_text(yaml.safe_dump(wanted))
    words = ["train", "--conf", tmp_path / "conf.yaml", "--exp", exp, "--data", corpus_dir, "--noise", "noise"]
    words += ["--device", "cpu", "--threads", "1", "--find_lr", "--lr_range", "1e-5", "1e-1", "--lr_steps", "40"]
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    told = capsys.readouterr().out
    written = {path for path in exp.rglob("*") if path.is_file()} - set(before)
    assert {path.name for path in written} == {"lr_finder.json", "lr_finder.html"}
    assert {path: path.read_bytes() for path in before} == before
    found = json.loads((exp / "lr_finder" / "lr_finder.json").read_text())
    assert found["lr"][0] == 1e-5 and "--find_lr" in found["command"]
    page = (exp / "lr_finder" / "lr_finder.html").read_text()
    assert "<svg" in page and page.count("<circle") > 10
    if found["steepest"]:
        assert f"train.lr: {found['steepest']:.1e} (where the loss falls fastest)" in told
        assert f"steepest: {found['steepest']:.1e}" in page
    else:
        assert "no suggestion" in told
