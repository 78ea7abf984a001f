"""Training with a discriminator: who moves when, what counts, what is kept, and when it is given up."""

import json

import pytest
import torch

from tests import tiny
from tests.test_discriminators import NARROW
from tests.test_training import CPU, assert_equal, items, lines_of, without_clock
from tse_lib import checkpoint
from tse_lib.config import Config, build
from tse_lib.data.dataset import DrawnMixtures, collate
from tse_lib.simulation.sample import read_corpus
from tse_lib.training import trainer
from tse_lib.training.guards import note_alarms
from tse_lib.training.schedule import gan_strength
from tse_lib.training.state import new_state
from tse_lib.training.steps import gan_step, new_run, supervised_step

GAN = {
    "discriminator": {"name": "mpd_msd", "params": NARROW},
    "lr": 2e-3,
    "warmup_steps": 2,
    "discriminator_only_steps": 3,
    "ramp_steps": 4,
    "adversarial_weight": 0.1,
    "feature_weight": 2.0,
    "level_ratio": [1e-3, 1e3],
}


@pytest.fixture(scope="module")
def corpus(corpus_dir):
    return read_corpus(corpus_dir / "train", corpus_dir / "noise")


def conf_of(gan=None, **train) -> Config:
    wanted = tiny.values()
    wanted["train"].update({"step": "gan", "max_steps": 10, "valid_every": 5, "gan": {**GAN, **(gan or {})}, **train})
    return build(Config, wanted, "conf")


def run(conf, corpus, corpus_dir, exp):
    return trainer.train(conf, corpus, str(corpus_dir / "dev"), exp, CPU)


# ------------------------------------------------------------------------------------------------ the course of it


@pytest.fixture(scope="module")
def finetuned(corpus, corpus_dir, tmp_path_factory):
    """A short run from a best.pt, with the checkpoints of its stretches."""
    top = tmp_path_factory.mktemp("gan")
    start = tiny.make_checkpoint(top / "before" / "best.pt")
    before = start.read_bytes()
    run(conf_of(init_from=str(start), milestones=[1, 3, 4]), corpus, corpus_dir, top / "exp")
    assert start.read_bytes() == before and [path.name for path in start.parent.iterdir()] == ["best.pt"]
    return top / "exp"


def modules_at(exp, step):
    return checkpoint.load(exp / f"milestone_{step:08d}.pt")["modules"]


def test_at_first_only_the_discriminator_moves(finetuned):
    start = dict(tiny.make_model().state_dict())
    for step in (1, 3):
        assert_equal(dict(modules_at(finetuned, step)["model"]), start)
    one, three = (modules_at(finetuned, step)["discriminator"] for step in (1, 3))
    assert not any(torch.equal(one[key], three[key]) for key in one if "original" in key)
    moved = modules_at(finetuned, 4)["model"]
    assert any(not torch.equal(moved[key], start[key]) for key in start)


def test_then_it_is_heard_more_and_more(finetuned):
    log = lines_of(finetuned / "log" / "train.jsonl")
    assert [line["gan_strength"] for line in log] == [0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [line["lr"] for line in log[:5]] == pytest.approx([0, 0, 0, 5e-4, 1e-3])
    assert [line["discriminator_lr"] for line in log[:3]] == pytest.approx([1e-3, 2e-3, 2e-3], rel=0.2)
    judged = [line for line in log if line["neg_si_sdr"]]  # by chance, a step has no present target
    assert len(judged) >= 9
    assert all((line["adversarial"] > 0) == (line["gan_strength"] > 0) for line in judged)
    assert all(line["discriminator"] > 0 and line["discriminator_grad_norm"] > 0 for line in judged)
    assert all(line["grad_norm"] == 0 for line in log[:3]) and all(line["grad_norm"] > 0 for line in log[3:])


def test_the_best_is_chosen_by_separation_and_has_no_discriminator(finetuned):
    best, valid = checkpoint.load(finetuned / "best.pt"), lines_of(finetuned / "log" / "valid.jsonl")
    assert set(best["modules"]) == {"model"} and "ema" not in best
    assert best["best"] == max(line["si_sdri"] for line in valid)
    assert valid[0]["si_sdri"] == valid[1]["si_sdri"]  # until step 3 the weights are those it came with


def test_the_discriminator_alone_learns_to_tell(corpus):
    """From 1/2, which is the loss of one that guesses."""
    conf = conf_of({"discriminator_only_steps": 200, "warmup_steps": 0, "lr": 1e-2}, max_steps=300)
    state, data = new_state(conf, CPU), DrawnMixtures(corpus, conf)
    set_up, batch = new_run(conf, state, CPU), collate([data[index] for index in range(6)])
    counts = {"present": int(batch["present"].sum()), "absent": int((~batch["present"]).sum())}
    losses = [float(gan_step(state, set_up, [batch], counts)["discriminator"]) for _ in range(40)]
    assert losses[-1] < 0.4


def test_strength_in_closed_form():
    assert [gan_strength(step, 2, 4) for step in range(8)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert [gan_strength(step, 2, 0) for step in range(4)] == [0, 0, 1, 1]


# ------------------------------------------------------------------------------------------------ one step


def one_step(groups, present, step=9, conf=None, **gan):
    conf = conf or conf_of(gan, clip_norm=1e9)
    state = new_state(conf, CPU)
    state.model.load_state_dict(tiny.make_model().state_dict())
    state.step = step
    counts = {"present": sum(present), "absent": len(present) - sum(present)}
    gradients = {}

    def keep(name, part):
        part.optimizer.register_step_pre_hook(
            lambda *_: gradients.update(
                {(name, n): p.grad.clone() for n, p in part.module.named_parameters() if p.grad is not None}
            )
        )

    for name, part in state.parts.items():
        keep(name, part)
    take = gan_step if conf.train.gan else supervised_step
    logs = take(state, new_run(conf, state, CPU), [collate(group) for group in groups], counts)
    return state, logs, gradients


@pytest.mark.parametrize("present", [(True,) * 4, (True, False, True, True), (True, True, False, False)])
def test_two_batches_of_two_are_one_batch_of_four(present):
    """Also where one of the batches has no present target at all, for the extractor and for the discriminator."""
    all_items = items(4, present)
    _, whole, one = one_step([all_items], present)
    _, split, two = one_step([all_items[:2], all_items[2:]], present)
    for name in whole:
        assert float(split[name]) == pytest.approx(float(whole[name]), rel=1e-4, abs=1e-6), name
    for part in ("model", "discriminator"):
        names = [name for name in one if name[0] == part]
        largest = max(one[name].abs().max() for name in names)
        assert names and max((one[name] - two[name]).abs().max() for name in names) < 1e-5 * largest


def test_only_present_targets_are_judged():
    """What an absent target's mixture holds does not reach the discriminator."""
    some = items(3, (True, False, True))
    louder = [dict(item) for item in some]
    louder[1]["mixture"] = louder[1]["mixture"] * 7
    _, one, before = one_step([some], (True, False, True))
    _, other, after = one_step([louder], (True, False, True))
    assert all(torch.equal(before[name], after[name]) for name in before if name[0] == "discriminator")
    for name in ("adversarial", "feature_matching", "discriminator", "level_db", "neg_si_sdr"):
        assert float(one[name]) == float(other[name])
    assert float(one["attenuation"]) != float(other["attenuation"]) or float(one["loss"]) == float(other["loss"])


def test_a_discriminator_that_is_not_heard_changes_nothing_for_the_extractor():
    present = (True, False)
    wanted = tiny.values()
    wanted["train"].update(clip_norm=1e9)
    plain, _, alone = one_step([items(2, present)], present, conf=build(Config, wanted, "plain"))
    state, _, beside = one_step([items(2, present)], present, step=3)
    for name in alone:
        torch.testing.assert_close(alone[name], beside[name], rtol=1e-5, atol=1e-8)
    assert all(parameter.requires_grad for parameter in state.parts["discriminator"].module.parameters())
    assert all(parameter.grad is None for part in state.parts.values() for parameter in part.module.parameters())


def test_its_weights_matter_and_add_up():
    present = (True, True)
    _, _, none = one_step([items(2, present)], present, step=3)
    _, logs, both = one_step([items(2, present)], present, step=9)
    _, _, half = one_step([items(2, present)], present, step=5)
    expected = 0.1 * logs["adversarial"] + 2.0 * logs["feature_matching"]
    assert float(logs["loss"] - logs["neg_si_sdr"]) == pytest.approx(float(expected), rel=1e-3)
    for name in [name for name in none if name[0] == "model"]:
        torch.testing.assert_close((none[name] + both[name]) / 2, half[name], rtol=1e-3, atol=1e-6)


def test_a_step_without_present_targets_leaves_the_discriminator():
    state, logs, gradients = one_step([items(2, (False, False))], (False, False))
    assert {part for part, _ in gradients} == {"model"}
    before = new_state(conf_of(clip_norm=1e9), CPU).parts["discriminator"].module
    for name, parameter in before.named_parameters():
        assert torch.equal(parameter, dict(state.parts["discriminator"].module.named_parameters())[name])
    assert not logs["skipped"] and logs["discriminator"] == 0


def test_both_gradients_are_clipped():
    present, conf = (True, True), conf_of(clip_norm=1e-3)
    state, logs, gradients = one_step([items(2, present)], present, conf=conf)
    for part, name in (("model", "grad_norm"), ("discriminator", "discriminator_grad_norm")):
        norm = sum(float(gradient.square().sum()) for key, gradient in gradients.items() if key[0] == part) ** 0.5
        assert norm == pytest.approx(1e-3, rel=1e-2) and float(logs[name]) > 1e-3


def test_in_bf16_it_is_finite():
    conf = conf_of()
    state = new_state(conf, CPU)
    state.step = 9
    run = new_run(conf, state, CPU)
    run.autocast = torch.autocast("cpu", torch.bfloat16)
    logs = gan_step(state, run, [collate(items(2, (True, False)))], {"present": 1, "absent": 1})
    assert not logs["skipped"] and all(value.isfinite() for value in logs.values())
    assert all(parameter.dtype == torch.float32 for parameter in state.parts["discriminator"].module.parameters())


# ------------------------------------------------------------------------------------------------ resuming, stopping


@pytest.mark.parametrize("killed_at", [2, 6])
def test_a_killed_run_ends_as_one_that_was_not(corpus, corpus_dir, tmp_path, monkeypatch, killed_at):
    """While the discriminator learns alone, and while it is heard more and more."""
    conf = conf_of(save_every=2, accumulate=2)
    run(conf, corpus, corpus_dir, tmp_path / "calm")

    def killed(state, *rest):
        if state.step == killed_at:
            raise KeyboardInterrupt
        return gan_step(state, *rest)

    with monkeypatch.context() as patch:
        patch.setitem(trainer.STEPS, "gan", killed)
        with pytest.raises(KeyboardInterrupt):
            run(conf, corpus, corpus_dir, tmp_path / "rough")
    run(conf, corpus, corpus_dir, tmp_path / "rough")
    for name in ("last.pt", "best.pt"):
        calm, rough = (without_clock(checkpoint.load(tmp_path / exp / name)) for exp in ("calm", "rough"))
        assert_equal(calm, rough, name)
    assert {"model", "discriminator"} == set(checkpoint.load(tmp_path / "rough" / "last.pt")["optimizers"])


def test_a_level_that_runs_away_is_told_and_ends_it(corpus, corpus_dir, tmp_path, capsys):
    conf = conf_of({"level_ratio": [50, 60], "stop_after": 3})
    with pytest.raises(ValueError, match=r"step 3, for 3 reports in a row: the output is .* times as loud as"):
        run(conf, corpus, corpus_dir, tmp_path)
    assert capsys.readouterr().err.count("outside level_ratio 50 to 60") == 2


def test_a_collapse_is_told_in_a_row_only(tmp_path):
    state, gan = new_state(conf_of(), CPU), conf_of({"stop_after": 2}).train.gan
    good, bad = {"level_db": 0.0, "discriminator": 0.5}, {"level_db": 0.0, "discriminator": 0.001}
    state.step = 3
    note_alarms(state, gan, bad, tmp_path)  # alone, it may be sure
    assert state.alarms == {}
    state.step = 5
    for numbers in (bad, good, bad):
        note_alarms(state, gan, numbers, tmp_path)
    assert state.alarms == {"collapse": 1}
    with pytest.raises(ValueError, match=r"for 2 reports in a row: the discriminator's loss is 0.001, below"):
        note_alarms(state, gan, bad, tmp_path)


# ------------------------------------------------------------------------------------------------ the conf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gan": None}, "a section 'gan' belongs to 'step: gan'"),
        ({"step": "supervised"}, "a section 'gan' belongs to 'step: gan'"),
        ({"max_steps": 3}, "discriminator_only_steps must be below max_steps 3"),
        ({"gan": {**GAN, "warmup_steps": 4}}, "warmup_steps 4 must lie inside discriminator_only_steps 3"),
        ({"gan": {**GAN, "ramp": 4}}, "unknown key 'train.gan.ramp'; did you mean 'ramp_steps'"),
    ],
)
def test_confs_that_cannot_be_meant(change, message):
    wanted = json.loads(json.dumps(tiny.values()))
    wanted["train"].update({"step": "gan", "gan": GAN, **change})
    with pytest.raises(ValueError, match=message):
        build(Config, wanted, "conf")


def test_a_start_in_the_folder_of_this_run_is_refused(corpus, corpus_dir, tmp_path):
    start = tiny.make_checkpoint(tmp_path / "exp" / "best.pt")
    before = start.read_bytes()
    with pytest.raises(ValueError, match=r"train.init_from: .*best.pt lies in .*exp, where this run writes"):
        run(conf_of(init_from=str(start)), corpus, corpus_dir, tmp_path / "exp")
    assert start.read_bytes() == before
