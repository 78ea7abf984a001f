"""Weights of losses that are learned with the model, and parameters that weight decay leaves alone."""

import math
import os
import signal

import pytest
import torch

from tests.test_training import CPU, assert_equal, conf_with, items, lines_of, run, without_clock
from tests.test_training_saving import at_step
from tse_lib import checkpoint
from tse_lib.data.dataset import collate
from tse_lib.models import build_model
from tse_lib.simulation.sample import read_corpus
from tse_lib.training.state import new_part, new_state
from tse_lib.training.steps import new_run, supervised_step

TERMS = [
    {"name": "neg_si_sdr", "weight": 1.0},
    {"name": "l1", "weight": "learned"},
    {"name": "amplitude", "weight": "learned"},
    {"name": "attenuation", "weight": 0.1, "when": "absent"},
]


@pytest.fixture(scope="module")
def corpus(corpus_dir):
    return read_corpus(corpus_dir / "train", corpus_dir / "noise")


def step_with(groups, present, **train):
    conf = conf_with({"clip_norm": 1e9, "warmup_steps": 0, **train}, loss=TERMS)
    state = new_state(conf, CPU)
    counts = {"present": sum(present), "absent": len(present) - sum(present)}
    told = supervised_step(state, new_run(conf, state, CPU), [collate(group) for group in groups], counts)
    return state, told


def test_they_are_trained_told_and_found_again(corpus, corpus_dir, tmp_path, monkeypatch):
    """Stopped in the middle, the run ends with the same bits."""
    conf = conf_with(loss=TERMS)
    run(conf, corpus, corpus_dir, tmp_path / "calm")
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        run(conf, corpus, corpus_dir, tmp_path / "rough")
    run(conf, corpus, corpus_dir, tmp_path / "rough")
    calm, rough = (checkpoint.load(tmp_path / name / "last.pt") for name in ("calm", "rough"))
    assert_equal(without_clock(calm), without_clock(rough))
    assert {"weights"} < set(calm["modules"]) & set(calm["optimizers"]) & set(calm["schedulers"])
    assert set(checkpoint.load(tmp_path / "calm" / "best.pt")["modules"]) == {"model"}
    reports = lines_of(tmp_path / "calm" / "log" / "train.jsonl")
    assert [without_clock(line) for line in reports] == [
        without_clock(line) for line in lines_of(tmp_path / "rough" / "log" / "train.jsonl")
    ]
    last = 0.5 * torch.exp(-calm["modules"]["weights"]["log_variances"])
    assert [reports[-1]["weight_l1"], reports[-1]["weight_amplitude"]] == pytest.approx(last.tolist(), abs=1e-6)
    assert reports[-1]["weight_l1"] > reports[0]["weight_l1"] > 0.5  # a small loss is weighed up


@pytest.mark.parametrize("present", [(True,) * 4, (True, False, True, True), (True, True, False, False)])
def test_two_batches_of_two_are_one_batch_of_four(present):
    """The regulariser counts once a step, also where one of the batches has no present target at all."""
    everything = items(4, present)
    one, whole = step_with([everything], present)
    two, split = step_with([everything[:2], everything[2:]], present)
    for name in ("loss", "weights_grad_norm"):
        assert float(split[name]) == pytest.approx(float(whole[name]), rel=1e-5)
    both = [state.parts["weights"].module.log_variances for state in (one, two)]
    torch.testing.assert_close(both[0], both[1])


def test_the_gradient_of_a_weight_in_closed_form():
    """d/ds of exp(-s) L / 2 + s / 2 is (1 - L) / 2 at s = 0."""
    _, told = step_with([items(2, (True, True))], (True, True))
    slopes = [(1 - float(told[name])) / 2 for name in ("l1", "amplitude")]
    assert float(told["weights_grad_norm"]) == pytest.approx(math.hypot(*slopes), rel=1e-5)
    halves = sum(0.5 * float(told[name]) for name in ("l1", "amplitude"))
    assert float(told["loss"]) == pytest.approx(float(told["neg_si_sdr"]) + halves, rel=1e-5)


def test_without_an_item_for_their_loss_they_stay():
    state, told = step_with([items(2, (False, False))], (False, False), weight_decay=0.5)
    assert told["weights_grad_norm"] == 0 and state.parts["weights"].module.log_variances.tolist() == [0, 0]


def test_a_loss_that_is_not_finite_moves_neither_model_nor_weights():
    poisoned = items(2, (True, True))
    poisoned[0]["mixture"][5] = float("nan")
    state, told = step_with([poisoned], (True, True))
    assert told["skipped"] == 1 and state.parts["weights"].module.log_variances.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        ([{"name": "l1", "weight": "learned"}, {"name": "amplitude", "weight": {0: 1, 9: 0}}], "against the schedule"),
        ([{"name": "l1", "weight": "learned", "schedule": {0: 1, 9: 0}}], "for 'l1' there are two of them"),
        ([{"name": "l1", "weight": 0.3, "learned": True}], "for 'l1' there are two of them"),
        ([{"name": "l1", "weight": "learned"}] * 2, "'l1' is there twice"),
    ],
)
def test_confs_that_cannot_be_meant(terms, told):
    with pytest.raises(ValueError, match=told):
        conf_with(loss=terms)


def test_a_loss_in_db_is_refused():
    with pytest.raises(ValueError, match="the weight of 'neg_si_sdr' cannot be learned"):
        new_state(conf_with(loss=[{"name": "neg_si_sdr", "weight": "learned"}]), CPU)


def test_a_stored_conf_builds_the_same_again():
    conf = conf_with(loss=TERMS)
    assert type(conf).model_validate(conf.model_dump(mode="json")) == conf


# ---------------------------------------------------------------------------------------- weight decay


def test_weight_decay_leaves_the_rates_of_a_scan_alone():
    """With a gradient of 0 AdamW multiplies a weight by 1 - lr * weight_decay, and does no more."""
    options = {"dim": 6, "num_blocks": 1, "kernel_sizes": [4], "strides": [2]}
    model = build_model("sepmamba", options, 8000, "separate")
    part = new_part(model, conf_with({"lr": 0.1, "weight_decay": 0.5, "warmup_steps": 0}).train, 8)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    part.optimizer.step()
    spared = set()
    for name, weight in model.named_parameters():
        if torch.equal(weight, before[name]) and before[name].any():
            spared.add(name.rpartition("mixer.")[2])
        else:
            torch.testing.assert_close(weight, 0.95 * before[name])
    assert spared == {"A_log", "D", "dt_proj.bias"}


def test_other_networks_have_one_group():
    (group,) = new_state(conf_with({"weight_decay": 0.5}), CPU).parts["model"].optimizer.param_groups
    assert group["weight_decay"] == 0.5
