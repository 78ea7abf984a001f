"""Distillation: what a student learns from a frozen teacher."""

import pytest
import torch

from tests import tiny
from tests.test_training import CPU, assert_equal, items, lines_of, without_clock
from tse_lib import checkpoint
from tse_lib.config import Config, build
from tse_lib.data.dataset import collate
from tse_lib.losses.distillation import feature_distance
from tse_lib.losses.sdr import neg_si_sdr
from tse_lib.simulation.sample import read_corpus
from tse_lib.training import trainer
from tse_lib.training.state import new_state
from tse_lib.training.steps import distill_step, new_run

WIDE = {"feature_dim": 12, "lstm_hidden": 10}
BLOCKS = {"gridnet.blocks.0": "gridnet.blocks.0"}


@pytest.fixture(scope="module")
def corpus(corpus_dir):
    return read_corpus(corpus_dir / "train", corpus_dir / "noise")


def make_teacher(path, sample_rate=tiny.RATE, **params):
    values = {**tiny.values(), "sample_rate": sample_rate}
    values["model"] = {"name": "hifi_tse", "params": {**tiny.MODEL, **params}}
    conf = build(Config, values, "teacher").model_dump(mode="json")
    model = tiny.make_model(3, **params)
    checkpoint.save(path, {"modules": {"model": model.state_dict()}, "step": 1, "config": conf})
    return model


@pytest.fixture
def teacher(tmp_path):
    """A wider model than the student, and its checkpoint."""
    return make_teacher(tmp_path / "teacher" / "best.pt", **WIDE).eval()


def conf_of(tmp_path, features=None, **train) -> Config:
    distill = {"teacher": str(tmp_path / "teacher" / "best.pt"), "weight": 0.5}
    distill |= {"features": features, "feature_weight": 2.0} if features else {}
    wanted = tiny.values()
    wanted["train"].update({"step": "distill", "distill": distill, **train})
    return build(Config, wanted, "conf")


def run(conf, corpus, corpus_dir, exp):
    return trainer.train(conf, corpus, str(corpus_dir / "dev"), exp, CPU)


def one_step(conf, groups, present):
    state = new_state(conf, CPU)
    state.model.load_state_dict(tiny.make_model().state_dict())
    counts = {"present": sum(present), "absent": len(present) - sum(present)}
    logs = distill_step(state, new_run(conf, state, CPU), [collate(group) for group in groups], counts)
    return state, logs


def test_soft_targets_are_the_teachers_output_for_present_targets(tmp_path, teacher):
    present = (True, False, True)
    batch = collate(items(3, present))
    _, logs = one_step(conf_of(tmp_path), [items(3, present)], present)
    with torch.no_grad():
        student = tiny.make_model()
        soft, own = (model(batch["mixture"], model.encode(batch["enroll"])) for model in (teacher, student))
        expected = neg_si_sdr(own[[0, 2]], soft[[0, 2]]).mean()
    assert float(logs["soft"]) == pytest.approx(float(expected), abs=1e-4)
    usual = logs["neg_si_sdr"] + 0.1 * logs["attenuation"]
    assert float(logs["loss"]) == pytest.approx(float(usual + 0.5 * expected), abs=1e-4)


def test_features_of_another_width_are_projected(tmp_path, teacher):
    state, logs = one_step(conf_of(tmp_path, BLOCKS), [items(2, (True, False))], (True, False))
    assert [tuple(p.shape) for p in state.parts["projections"].module.parameters()] == [(12, 8), (12,)]
    assert logs["features"] > 0 and logs["projections_grad_norm"] > 0
    usual = logs["neg_si_sdr"] + 0.1 * logs["attenuation"] + 0.5 * logs["soft"]
    assert float(logs["loss"]) == pytest.approx(float(usual + 2.0 * logs["features"]), rel=1e-4)


def test_and_need_no_projection_where_widths_agree(tmp_path):
    make_teacher(tmp_path / "teacher" / "best.pt")
    state, logs = one_step(conf_of(tmp_path, BLOCKS), [items(2, (True, False))], (True, False))
    assert set(state.parts) == {"model"} and logs["features"] > 0


def test_recomputed_activations_give_the_same_features(tmp_path, teacher):
    conf = conf_of(tmp_path, BLOCKS)
    params = {**conf.model.params, "gradient_checkpointing": True}
    recomputing = conf.model_copy(update={"model": conf.model.model_copy(update={"params": params})})
    state, logs = one_step(conf, [items(2, (True, True))] * 2, (True,) * 4)
    again, told = one_step(recomputing, [items(2, (True, True))] * 2, (True,) * 4)
    assert_equal(told, logs)
    assert_equal(dict(again.model.state_dict()), dict(state.model.state_dict()))


@pytest.mark.parametrize("present", [(True, False, True, True), (True, True, False, False)])
def test_two_batches_of_two_are_one_batch_of_four(tmp_path, teacher, present):
    all_items = items(4, present)
    conf = conf_of(tmp_path, BLOCKS)
    _, whole = one_step(conf, [all_items], present)
    _, split = one_step(conf, [all_items[:2], all_items[2:]], present)
    for name in whole:
        assert float(split[name]) == pytest.approx(float(whole[name]), rel=1e-4, abs=1e-5), name


def test_a_student_comes_nearer_to_its_teacher(tmp_path, teacher):
    conf = conf_of(tmp_path, BLOCKS, lr=1e-2, warmup_steps=0)
    conf = conf.model_copy(update={"loss": [conf.loss[0].model_copy(update={"weight": 1e-6})]})
    state = new_state(conf, CPU)
    set_up, batch = new_run(conf, state, CPU), collate(items(3, (True, True, False)))
    logs = [distill_step(state, set_up, [batch], {"present": 2, "absent": 1}) for _ in range(40)]
    assert logs[-1]["soft"] < logs[0]["soft"] - 2
    assert logs[-1]["features"] < 0.8 * logs[0]["features"]


def test_the_teacher_stays_and_is_not_in_the_checkpoint(tmp_path, corpus, corpus_dir, teacher):
    path = tmp_path / "teacher" / "best.pt"
    before = path.read_bytes()
    state = run(conf_of(tmp_path, BLOCKS), corpus, corpus_dir, tmp_path / "exp")
    assert path.read_bytes() == before
    assert_equal(dict(state.teacher.state_dict()), dict(teacher.state_dict()))
    assert set(checkpoint.load(tmp_path / "exp" / "last.pt")["modules"]) == {"model", "projections"}
    assert set(checkpoint.load(tmp_path / "exp" / "best.pt")["modules"]) == {"model"}
    assert {"soft", "features"} <= lines_of(tmp_path / "exp" / "log" / "train.jsonl")[0].keys()


def test_a_killed_run_ends_as_one_that_was_not(tmp_path, corpus, corpus_dir, teacher, monkeypatch):
    conf = conf_of(tmp_path, BLOCKS, save_every=2)
    run(conf, corpus, corpus_dir, tmp_path / "calm")

    def killed(state, *rest):
        if state.step == 5:
            raise KeyboardInterrupt
        return distill_step(state, *rest)

    with monkeypatch.context() as patch:
        patch.setitem(trainer.STEPS, "distill", killed)
        with pytest.raises(KeyboardInterrupt):
            run(conf, corpus, corpus_dir, tmp_path / "rough")
    run(conf, corpus, corpus_dir, tmp_path / "rough")
    calm, rough = (without_clock(checkpoint.load(tmp_path / exp / "last.pt")) for exp in ("calm", "rough"))
    assert_equal(calm, rough)


def test_another_teacher_of_the_same_name_is_refused(tmp_path, corpus, corpus_dir, teacher):
    conf = conf_of(tmp_path, max_steps=2)
    run(conf, corpus, corpus_dir, tmp_path / "exp")
    make_teacher(tmp_path / "teacher" / "best.pt", **{**WIDE, "lstm_hidden": 9})
    with pytest.raises(ValueError, match=r"began with other data \(its teacher changed\)"):
        run(conf, corpus, corpus_dir, tmp_path / "exp")


def test_teachers_that_do_not_fit(tmp_path):
    path = tmp_path / "teacher" / "best.pt"
    with pytest.raises(FileNotFoundError, match=r"best.pt: no such checkpoint"):
        new_state(conf_of(tmp_path), CPU)
    make_teacher(path, sample_rate=16000)
    with pytest.raises(ValueError, match="the teacher works at 16000 Hz, this experiment at 8000 Hz"):
        new_state(conf_of(tmp_path), CPU)
    make_teacher(path, bands=5)
    with pytest.raises(ValueError, match=r"'gridnet.blocks.0' gives .* the teacher's .* only the last axis may differ"):
        new_state(conf_of(tmp_path, BLOCKS), CPU)
    with pytest.raises(ValueError, match=r"the model has no module 'gridnet.blocks.9'; it has encoder"):
        new_state(conf_of(tmp_path, {"gridnet.blocks.0": "gridnet.blocks.9"}), CPU)
    with pytest.raises(ValueError, match=r"'gridnet.blocks.0.freq_lstm' returns no tensor"):
        new_state(conf_of(tmp_path, {"gridnet.blocks.0.freq_lstm": "gridnet.blocks.0.freq_lstm"}), CPU)
    with pytest.raises(ValueError, match="features and a feature_weight above 0 belong together"):
        wanted = tiny.values()
        distill = {"teacher": "x", "weight": 1, "features": BLOCKS}
        wanted["train"].update({"step": "distill", "distill": distill})
        build(Config, wanted, "conf")


def test_distance_of_features_in_closed_form():
    teacher = torch.randn(3, 4, 5, generator=torch.manual_seed(0))
    torch.testing.assert_close(feature_distance(teacher, teacher), torch.zeros(3))
    torch.testing.assert_close(feature_distance(torch.zeros(3, 4, 5), teacher), torch.ones(3))
    torch.testing.assert_close(feature_distance(1.1 * teacher, teacher), torch.full((3,), 0.01))
    torch.testing.assert_close(feature_distance(110 * teacher, 100 * teacher), torch.full((3,), 0.01))
    silent = torch.zeros(1, 4, requires_grad=True)
    feature_distance(silent, torch.zeros(1, 4)).sum().backward()
    assert silent.grad.isfinite().all()
