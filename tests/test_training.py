"""The training loop: what it computes, and that a kill, accumulation or more processes change nothing."""

import dataclasses
import json
import math
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from tests import tiny
from tse_lib import checkpoint
from tse_lib.config import Config, LossTerm, build
from tse_lib.data.dataset import DrawnMixtures, collate
from tse_lib.losses.level import attenuation
from tse_lib.losses.sdr import neg_si_sdr
from tse_lib.simulation.sample import read_corpus
from tse_lib.training.saving import hash_of_corpus
from tse_lib.training.schedule import lr_scale
from tse_lib.training.state import new_state
from tse_lib.training.steps import Objective, autocast_for, build_objective, new_run, supervised_step
from tse_lib.training.trainer import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(corpus_dir):
    return read_corpus(corpus_dir / "train", corpus_dir / "noise")


def conf_with(train=None, **sections) -> Config:
    wanted = tiny.values()
    wanted["train"].update(train or {})
    for name, values in sections.items():
        wanted[name] = {**wanted[name], **values} if isinstance(values, dict) else values
    return build(Config, wanted, "conf")


def run(conf, corpus, corpus_dir, exp):
    return train(conf, corpus, str(corpus_dir / "dev"), exp, CPU)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_equal(one, other, where=""):
    """Every tensor, number and name of two nested states is the same."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}.{place}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


CLOCKS = ("seconds", "data_s", "forward_s", "backward_s", "optimizer_s", "cpu_s")


def without_clock(saved):
    return {key: value for key, value in saved.items() if key not in CLOCKS}


# ---------------------------------------------------------------------------------------- whole


def test_the_loss_of_a_batch_falls(corpus):
    conf = conf_with({"lr": 1e-2, "batch_size": 4, "warmup_steps": 0}, simulation={"target_absent": 0})
    conf = conf.model_copy(update={"loss": conf.loss[:1]})
    data, state = DrawnMixtures(corpus, conf), new_state(conf, CPU)
    batch, run, losses = collate([data[index] for index in range(4)]), new_run(conf, state, CPU), []
    for _ in range(60):
        logs = supervised_step(state, run, [batch], {"present": 4, "absent": 0})
        losses.append(float(logs["loss"]))
    assert losses[-1] < losses[0] - 2


def test_what_a_run_writes(corpus, corpus_dir, tmp_path):
    conf = conf_with()
    state = run(conf, corpus, corpus_dir, tmp_path / "exp")
    assert [line["step"] for line in lines_of(tmp_path / "exp" / "log" / "train.jsonl")] == list(range(1, 9))
    valid = lines_of(tmp_path / "exp" / "log" / "valid.jsonl")
    assert [line["step"] for line in valid] == [4, 8] and valid[-1]["best"] == state.best
    assert build(Config, yaml.safe_load((tmp_path / "exp" / "config.yaml").read_text()), "again") == conf
    best = checkpoint.load(tmp_path / "exp" / "best.pt")
    assert best["best"] == state.best and set(best["modules"]) == {"model"}
    assert checkpoint.load(tmp_path / "exp" / "last.pt")["step"] == 8


def test_the_same_conf_gives_the_same_weights_and_another_seed_does_not(corpus, corpus_dir, tmp_path):
    weights = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        torch.manual_seed(len(name) + seed)  # the global state must not matter
        conf = conf_with({"max_steps": 3}).model_copy(update={"seed": seed})
        weights.append(run(conf, corpus, corpus_dir, tmp_path / name).model.state_dict())
    assert_equal(dict(weights[0]), dict(weights[1]))
    assert not all(torch.equal(weights[0][key], weights[2][key]) for key in weights[0])


def test_workers_and_how_often_is_saved_change_nothing(corpus, corpus_dir, tmp_path):
    one = run(conf_with({"num_workers": 0}), corpus, corpus_dir, tmp_path / "a")
    other = run(conf_with({"num_workers": 2, "save_every": 3, "log_every": 5}), corpus, corpus_dir, tmp_path / "b")
    assert_equal(dict(one.model.state_dict()), dict(other.model.state_dict()))
    assert one.best == other.best


def test_another_conf_on_the_same_exp_is_refused(corpus, corpus_dir, tmp_path):
    run(conf_with({"max_steps": 2}), corpus, corpus_dir, tmp_path / "exp")
    before = (tmp_path / "exp" / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=r"began with another conf \(.*train\.lr was 0\.001, is 0\.002"):
        run(conf_with({"max_steps": 2, "lr": 2e-3}), corpus, corpus_dir, tmp_path / "exp")
    run(conf_with({"max_steps": 2, "log_every": 7, "num_workers": 1}), corpus, corpus_dir, tmp_path / "exp")
    assert (tmp_path / "exp" / "last.pt").read_bytes() == before  # there was nothing left to do


def test_other_data_on_the_same_exp_is_refused(corpus, corpus_dir, tmp_path):
    conf = conf_with({"max_steps": 2})
    run(conf, corpus, corpus_dir, tmp_path / "exp")
    before = (tmp_path / "exp" / "last.pt").read_bytes()
    elsewhere = dataclasses.replace(
        corpus, speech=[dataclasses.replace(utt, path=f"/elsewhere/{utt.path}") for utt in corpus.speech]
    )
    assert hash_of_corpus(elsewhere) == hash_of_corpus(corpus)
    fewer = dataclasses.replace(corpus, speech=corpus.speech[:-1])
    with pytest.raises(
        ValueError, match=r"began with other data \(what it is trained on changed\); to train anew remove"
    ):
        run(conf, fewer, corpus_dir, tmp_path / "exp")
    dev = tmp_path / "data" / "dev"
    shutil.copytree(corpus_dir / "dev", dev)
    lines = (dev / "mixtures.jsonl").read_text().splitlines(keepends=True)
    (dev / "mixtures.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"other data \(the development mixtures changed\)"):
        run(conf, corpus, tmp_path / "data", tmp_path / "exp")
    assert (tmp_path / "exp" / "last.pt").read_bytes() == before
    old = checkpoint.load(tmp_path / "exp" / "last.pt")
    del old["data"]  # as checkpoints were before: they go on
    checkpoint.save(tmp_path / "exp" / "last.pt", old)
    run(conf, fewer, corpus_dir, tmp_path / "exp")


def test_the_curriculum_is_in_the_board(corpus, corpus_dir, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install -e .[train])")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ramp = [{"until_step": 4, "simulation": {"snr_db": {"ramp": [[20, 30], [4, 10]]}}}]
    run(conf_with(curriculum=ramp, simulation={"target_absent": {0: 0.0, 8: 0.4}}), corpus, corpus_dir, tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    values = [event.value for event in board.Scalars("curriculum/snr_db_low")]
    assert values[:4] == [20, 16, 12, 8] and set(values[4:]) == {5}
    assert [event.value for event in board.Scalars("curriculum/target_absent")] == pytest.approx(np.arange(8) * 0.05)


@pytest.fixture
def damaged(corpus_dir, tmp_path):
    """The corpus with one file that is not there any more."""
    corpus = read_corpus(corpus_dir / "train", corpus_dir / "noise", corpus_dir / "rir")
    speech = [dataclasses.replace(utt, path="gone.wav") if utt.utt_id == "a-0" else utt for utt in corpus.speech]
    return dataclasses.replace(corpus, speech=speech)


def test_a_bad_file_ends_the_training_with_its_name(damaged, corpus_dir, tmp_path):
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"gone.wav: no such audio file \(utterance a-0\); train.bad_files: skip"):
            run(conf_with({"num_workers": workers}), damaged, corpus_dir, tmp_path / str(workers))


def test_a_corpus_that_is_gone_ends_the_training_with_one_line(corpus_dir, tmp_path):
    """And its process: workers ignore SIGTERM, so that Python's end would wait for one that nobody told to end."""
    shutil.copytree(corpus_dir, tmp_path / "data")
    table = tmp_path / "data" / "train" / "wav.scp"
    table.write_text(table.read_text().replace(str(corpus_dir), "/gone"))
    (tmp_path / "conf.yaml").write_text(yaml.safe_dump(tiny.values()))
    words = "train --conf conf.yaml --exp exp --noise noise --device cpu --set train.num_workers=2".split()
    ended = subprocess.run(
        [sys.executable, "-m", "tse_lib.bin.main", *words],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 4
    assert re.search(
        r"^tse train: error: train-0: 10 draws in a row .* /gone/\S+: no such audio file \(", ended.stderr, re.M
    )


def test_or_is_skipped_named_once_and_counted(damaged, corpus_dir, tmp_path, capsys):
    state = run(conf_with({"bad_files": "skip", "num_workers": 1}), damaged, corpus_dir, tmp_path)
    assert state.step == 8
    assert capsys.readouterr().err.count("skipped: gone.wav: no such audio file (utterance a-0)") == 1
    counts = [line["bad_files"] for line in lines_of(tmp_path / "log" / "train.jsonl")]
    assert sum(counts) > 1 and max(counts) < 4


def test_patience_stops(corpus, corpus_dir, tmp_path):
    conf = conf_with({"lr": 1e-12, "valid_every": 1, "patience": 2, "max_steps": 50})
    state = run(conf, corpus, corpus_dir, tmp_path)
    assert state.step < 50 and state.patience == 2
    again = run(conf, corpus, corpus_dir, tmp_path)
    assert again.step == state.step  # it had ended


def test_finetuning_starts_from_the_weights_it_is_given(tmp_path):
    path = tiny.make_checkpoint(tmp_path / "a.pt")
    state = new_state(conf_with({"init_from": str(path)}), CPU)
    assert_equal(dict(state.model.state_dict()), dict(tiny.make_model().state_dict()))
    assert_equal(dict(state.ema.module.state_dict()), dict(tiny.make_model().state_dict()))


# ---------------------------------------------------------------------------------------- schedule


def test_learning_rate_in_closed_form():
    assert [lr_scale(step, 4, 104, 0.1) for step in range(4)] == [0.25, 0.5, 0.75, 1]
    assert lr_scale(4, 4, 104, 0.1) == 1
    assert lr_scale(54, 4, 104, 0.1) == pytest.approx(0.55)
    assert lr_scale(29, 4, 104, 0.1) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert lr_scale(104, 4, 104, 0.1) == lr_scale(500, 4, 104, 0.1) == pytest.approx(0.1)
    assert lr_scale(0, 0, 1, 0) == 1


def test_warm_restarts_begin_whole_and_end_at_the_floor():
    """A cycle of 10 steps, one of 30, and the rest; each is the cosine that would be alone."""
    rates = [lr_scale(step, 4, 104, 0.1, (14, 44)) for step in range(105)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1]
    assert [step for step in range(1, 105) if rates[step] > rates[step - 1]] == [1, 2, 3, 14, 44]
    assert rates[4] == rates[14] == rates[44] == 1 and rates[104] == pytest.approx(0.1)
    for begin, end in ((4, 14), (14, 44), (44, 104)):
        alone = [lr_scale(step, 0, end - begin, 0.1) for step in range(end - begin)]
        assert rates[begin:end] == alone and rates[(begin + end) // 2] == pytest.approx(0.55)


def test_a_run_with_restarts_that_is_stopped_goes_on_with_the_same_bits(corpus, corpus_dir, tmp_path):
    values = {"max_steps": 6, "min_lr": 1e-4, "restart_at": (3,), "save_every": 2}
    whole = run(conf_with(values), corpus, corpus_dir, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    for path in [tmp_path / "again" / "last.pt", max((tmp_path / "again").glob("step_*.pt"))]:
        path.unlink()  # what is left is of step 4, behind the restart
    again = run(conf_with(values), corpus, corpus_dir, tmp_path / "again")
    assert_equal(dict(whole.model.state_dict()), dict(again.model.state_dict()))
    rates = [line["lr"] for line in lines_of(tmp_path / "again" / "log" / "train.jsonl")]
    assert rates == pytest.approx([1e-3 * lr_scale(step, 2, 6, 0.1, (3,)) for step in range(6)])


def test_the_learning_rate_of_each_step_is_logged(corpus, corpus_dir, tmp_path):
    run(conf_with({"max_steps": 6, "min_lr": 1e-4}), corpus, corpus_dir, tmp_path)
    rates = [line["lr"] for line in lines_of(tmp_path / "log" / "train.jsonl")]
    assert rates == pytest.approx([1e-3 * lr_scale(step, 2, 6, 0.1) for step in range(6)])


# ---------------------------------------------------------------------------------------- one step's maths


def items(count, present):
    generator = torch.manual_seed(0)
    return [
        {
            "mix_id": str(place),
            "mixture": torch.randn(800, generator=generator) * 0.1,
            "target": torch.randn(1, 800, generator=generator) * (0.1 if present[place] else 0),
            "enrolls": [torch.randn(600, generator=generator) * 0.1],
            "present": present[place],
        }
        for place in range(count)
    ]


def step_with(groups, present, clip_norm=1e9):
    """The state after one optimizer step over batches, and what the step reports."""
    conf = conf_with({"clip_norm": clip_norm})
    state = new_state(conf, CPU)
    state.model.load_state_dict(tiny.make_model().state_dict())
    counts = {"present": sum(present), "absent": len(present) - sum(present)}
    batches = [collate(group) for group in groups]
    gradients = {}
    state.parts["model"].optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: gradients.update({n: p.grad.clone() for n, p in state.model.named_parameters()})
    )
    logs = supervised_step(state, new_run(conf, state, CPU), batches, counts)
    return state, logs, gradients


@pytest.mark.parametrize("present", [(True,) * 4, (True, False, True, True), (True, True, False, False)])
def test_two_batches_of_two_are_one_batch_of_four(present):
    """Also where one of the batches has no present target at all."""
    all_items = items(4, present)
    _, whole, one = step_with([all_items], present)
    _, split, two = step_with([all_items[:2], all_items[2:]], present)
    assert float(split["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-5)
    assert float(split["grad_norm"]) == pytest.approx(float(whole["grad_norm"]), rel=1e-4)
    largest = max(gradient.abs().max() for gradient in one.values())
    assert max((one[name] - two[name]).abs().max() for name in one) < 1e-5 * largest


def test_an_option_of_another_type_is_told_with_the_loss():
    batch = collate(items(2, (True, True)))
    objective = Objective(
        [build(LossTerm, {"name": "multi_scale_si_sdr", "weight": 1, "params": {"windows": 99}}, "x")]
    )
    with pytest.raises(ValueError, match=r"loss multi_scale_si_sdr: params {'windows': 99}: 'int' object is not"):
        objective(batch["target"][:, :, None], batch, {"present": 2, "absent": 0}, 0)


def test_the_loss_is_the_mean_over_those_it_is_for():
    present = (True, False, True, True, False)
    batch = collate(items(5, present))
    terms = [{"name": "neg_si_sdr", "weight": 2.0}, {"name": "attenuation", "weight": {0: 1, 10: 0}, "when": "absent"}]
    objective = Objective(conf_with(loss=terms).loss)
    estimate = torch.randn(5, 1, 1, 800, generator=torch.manual_seed(3))
    total, shares = objective(estimate, batch, {"present": 3, "absent": 2}, step=5)
    here, gone = torch.tensor(present), ~torch.tensor(present)
    si_sdr = neg_si_sdr(estimate[here], batch["target"][here][:, None]).mean()
    level = attenuation(estimate[gone], batch["mixture"][gone][:, None]).mean()
    torch.testing.assert_close(total, 2 * si_sdr + 0.5 * level)
    torch.testing.assert_close(shares, {"neg_si_sdr": si_sdr, "attenuation": level})


def test_a_step_without_present_targets_is_finite():
    state, logs, _ = step_with([items(2, (False, False))], (False, False))
    assert not logs["skipped"] and math.isfinite(float(logs["loss"]))


def test_clipping_keeps_the_direction_and_logs_the_norm_before():
    present = (True, True)
    _, free, gradients = step_with([items(2, present)], present)
    _, clipped, short = step_with([items(2, present)], present, clip_norm=1e-3)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in short.values()))
    assert norm == pytest.approx(1e-3, rel=1e-3)
    assert float(clipped["grad_norm"]) == pytest.approx(float(free["grad_norm"]))
    name = "usef.norm.weight"
    torch.testing.assert_close(short[name] / short[name].norm(), gradients[name] / gradients[name].norm())


def test_a_gradient_that_is_not_finite_is_not_followed():
    poisoned = items(2, (True, True))
    poisoned[0]["mixture"][5] = float("nan")
    state, logs, gradients = step_with([poisoned], (True, True))
    assert logs["skipped"] == 1 and gradients == {}
    assert_equal(dict(state.model.state_dict()), dict(tiny.make_model().state_dict()))
    assert all(parameter.grad is None for parameter in state.model.parameters())


def test_skipped_steps_are_counted_and_too_many_stop(corpus, corpus_dir, tmp_path, monkeypatch):
    conf = conf_with({"max_steps": 40, "save_every": 100, "valid_every": 100})
    original = DrawnMixtures.__getitem__

    def poisoned(self, index):
        item = original(self, index)
        if index >= 2 * 3:  # from the fourth step on
            item["mixture"] = item["mixture"] * float("nan")
        return item

    monkeypatch.setattr(DrawnMixtures, "__getitem__", poisoned)
    with pytest.raises(
        ValueError, match="not finite in 20 steps in a row, at step 23; the last good step was 3"
    ) as end:
        run(conf, corpus, corpus_dir, tmp_path)
    assert "the mixture's samples of train-6, train-7; the model's output of train-6, train-7; the loss" in str(
        end.value
    )
    assert "lr 0.000998" in str(end.value)
    skipped = [line["skipped"] for line in lines_of(tmp_path / "log" / "train.jsonl")]
    assert skipped == [0, 0, 0] + [1] * 19
    assert not (tmp_path / "best.pt").exists()


def test_averaged_weights_by_hand():
    """The decay grows as (1 + n) / (10 + n) up to ema_decay; the first update copies."""
    state = new_state(conf_with({"ema_decay": 0.25}), CPU)
    name, expected = "usef.norm.weight", None
    for count in range(8):
        with torch.no_grad():
            dict(state.model.named_parameters())[name].fill_(float(count**2))
        state.ema.update_parameters(state.model)
        decay = 0.0 if count == 0 else min(0.25, (1 + count) / (10 + count))
        expected = count**2 if expected is None else decay * expected + (1 - decay) * count**2
        assert float(state.ema.module.state_dict()[name][0]) == pytest.approx(expected, rel=1e-6)


def test_bf16_is_used_where_the_processor_has_it():
    assert not autocast_for(CPU, False)._enabled
    assert autocast_for(CPU, True)._enabled == torch.cpu._is_avx512_bf16_supported()
    state = new_state(conf_with(), CPU)
    state.model.load_state_dict(tiny.make_model().state_dict())
    present, seen = (True, False), []
    state.model.usef.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].dtype))
    run = new_run(conf_with(), state, CPU)
    run.autocast = torch.autocast("cpu", torch.bfloat16)
    with_bf16 = supervised_step(state, run, [collate(items(2, present))], {"present": 1, "absent": 1})
    _, exact, _ = step_with([items(2, present)], present)
    assert torch.bfloat16 in seen
    assert not with_bf16["skipped"] and with_bf16["loss"].dtype == torch.float32
    assert float(with_bf16["loss"]) == pytest.approx(float(exact["loss"]), abs=0.5)
    assert all(parameter.dtype == torch.float32 for parameter in state.model.parameters())


def test_a_loss_for_absent_targets_needs_absent_targets():
    with pytest.raises(ValueError, match="a term is `when: absent`, but simulation.target_absent is 0"):
        build_objective(conf_with(simulation={"target_absent": 0}))
