"""Losses beside the one on the estimate: on speakers (who is numbered, what learns, what is deployed), on scales."""

import math

import numpy as np
import pytest
import torch

from tests import tiny
from tests.test_matrix import params_of
from tests.test_training import assert_equal, without_clock
from tse_lib import checkpoint
from tse_lib.config import Config, LossTerm, build
from tse_lib.data.dataset import DrawnMixtures, collate
from tse_lib.inference.loading import load
from tse_lib.losses import build_loss
from tse_lib.losses.sdr import neg_si_sdr
from tse_lib.losses.speaker import speaker_cross_entropy
from tse_lib.nn.speaker import SPEAKER_ENCODERS
from tse_lib.simulation.sample import read_corpus
from tse_lib.training import trainer
from tse_lib.training.state import new_state
from tse_lib.training.steps import new_run, supervised_step, told
from tse_lib.training.trainer import train

CPU = torch.device("cpu")
SPEX = {"num_filters": 4, "bottleneck_dim": 4, "hidden_dim": 4, "num_blocks": 1, "num_repeats": 1, "embedding_dim": 4}


@pytest.fixture(scope="module")
def corpus(corpus_dir):
    return read_corpus(corpus_dir / "train", corpus_dir / "noise")


def conf_of(name, params, weight=0.5, **options):
    values = tiny.values()
    values["model"] = {"name": name, "params": params}
    values["loss"] = [{"name": "neg_si_sdr", "weight": 1}, {"name": "speaker_cross_entropy", "weight": weight}]
    values["simulation"]["target_absent"] = 0
    values["train"].update(options)
    return build(Config, values, "conf")


def film(**options):
    return conf_of("conditioned", params_of("conv_tasnet", "film"), **options)


def test_speakers_are_learned(corpus):
    """Who is enrolled can be told after some steps on one batch, and the encoder has learned it, too."""
    conf = film(weight=10, lr=1e-2, warmup_steps=0, batch_size=4)
    data = DrawnMixtures(corpus, conf)
    state = new_state(conf, CPU, data.speakers)
    run, batch = new_run(conf, state, CPU), collate([data[index] for index in range(4)])
    names = [data.mixture(index).enrolls[0].spk_id for index in range(4)]
    assert batch["speaker"] == names and data.speakers == list("abcde")
    before = {name: value.clone() for name, value in state.model.speaker.state_dict().items()}
    losses = [float(supervised_step(state, run, [batch], {"present": 4})["speaker_cross_entropy"]) for _ in range(25)]
    assert losses[0] == pytest.approx(math.log(5), abs=0.7) and losses[-1] < 0.5 * losses[0]
    assert any(not torch.equal(before[name], value) for name, value in state.model.speaker.state_dict().items())
    numbers = run.network(batch["mixture"], batch["enroll"], batch["lengths"])[1]["logits"].argmax(1).tolist()
    assert [data.speakers[number] for number in numbers] == names


def test_a_killed_run_ends_as_one_that_was_not_and_deploys_no_classifier(tmp_path, corpus, corpus_dir, monkeypatch):
    conf, step, dev = film(max_steps=3, save_every=1, valid_every=3), trainer.STEPS["supervised"], corpus_dir / "dev"
    train(conf, corpus, str(dev), tmp_path / "calm", CPU)

    def killed(state, *rest):
        if state.step == 2:
            raise KeyboardInterrupt
        return step(state, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setitem(trainer.STEPS, "supervised", killed)
        train(conf, corpus, str(dev), tmp_path / "rough", CPU)
    train(conf, corpus, str(dev), tmp_path / "rough", CPU)
    calm, rough = (without_clock(checkpoint.load(tmp_path / exp / "last.pt")) for exp in ("calm", "rough"))
    assert_equal(calm, rough)
    assert set(calm["modules"]) == {"model", "classifier"} and calm["modules"]["classifier"]["weight"].shape == (5, 6)
    assert set(checkpoint.load(tmp_path / "calm" / "best.pt")["modules"]) == {"model"}
    mixture, enroll = (tiny.voice(name, 2000) for name in ("a-1", "b-1"))
    assert load(tmp_path / "calm" / "best.pt").extract(mixture, enroll, tiny.RATE).shape == (2000,)


def test_a_published_classifier_is_the_models_own(corpus):
    conf = conf_of("spex_plus", {**SPEX, "num_speakers": 7})
    data = DrawnMixtures(corpus, conf)
    state = new_state(conf, CPU, data.speakers)
    run, batch = new_run(conf, state, CPU), collate([data[index] for index in range(2)])
    before = state.model.classifier.weight.clone()
    assert supervised_step(state, run, [batch], {"present": 2})["speaker_cross_entropy"] > 0
    assert set(state.parts) == {"model"} and not torch.equal(before, state.model.classifier.weight)
    with pytest.raises(ValueError, match="model.params.num_speakers 4: the training set has 5"):
        new_state(conf_of("spex_plus", {**SPEX, "num_speakers": 4}), CPU, data.speakers)


def test_outputs_come_near_their_own_enrolment(corpus):
    """The contrast teaches encoder and extractor on one batch, and needs no classifier."""
    values = tiny.values()
    values["model"] = {"name": "conditioned", "params": params_of("conv_tasnet", "film")}
    values["loss"] = [{"name": "speaker_contrast", "weight": 1, "params": {"temperature": 0.5}}]
    values["simulation"]["target_absent"] = 0
    values["train"].update({"lr": 1e-2, "warmup_steps": 0, "batch_size": 4})
    conf = build(Config, values, "conf")
    data = DrawnMixtures(corpus, conf)
    state = new_state(conf, CPU, data.speakers)
    run, batch = new_run(conf, state, CPU), collate([data[index] for index in range(4)])
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    losses = [float(supervised_step(state, run, [batch], {"present": 4})["speaker_contrast"]) for _ in range(25)]
    assert set(state.parts) == {"model"} and losses[-1] < 0.7 * losses[0] <= 1.1 * math.log(4)
    changed = [name for name, value in state.model.state_dict().items() if not torch.equal(before[name], value)]
    assert any(name.startswith("speaker.") for name in changed) and any("backbone.decoder" in name for name in changed)


def test_absent_targets_are_no_part_of_the_contrast(corpus):
    conf = film()
    conf = conf.model_copy(update={"loss": [LossTerm(name="speaker_contrast", weight=1)]})
    data = DrawnMixtures(corpus, conf)
    state = new_state(conf, CPU, data.speakers)
    run, batch = new_run(conf, state, CPU), collate([data[index] for index in range(3)])
    told(run.network, run, batch)
    present = {**batch, "present": torch.tensor([True, False, True])}
    others = {name: value[[0, 2]] for name, value in batch.items() if isinstance(value, torch.Tensor)}
    estimate = torch.zeros(3, 1, 1, 8)
    (some,), (without,) = run.objective.items(estimate, present), run.objective.items(estimate[:2], others)
    assert torch.equal(some, without) and some.shape == (2,)


def test_all_scales_of_spex_plus_train(corpus):
    """Every decoder learns, the report has one loss, and validation and the deployed output are the first scale."""
    values = tiny.values()
    values["model"] = {"name": "spex_plus", "params": {**SPEX, "num_speakers": 7}}
    values["loss"] = [{"name": "neg_si_sdr_of_scales", "weight": 1}, {"name": "speaker_cross_entropy", "weight": 0.5}]
    values["simulation"]["target_absent"] = 0
    conf = build(Config, values, "conf")
    data = DrawnMixtures(corpus, conf)
    state = new_state(conf, CPU, data.speakers)
    run, batch = new_run(conf, state, CPU), collate([data[index] for index in range(2)])
    before = {name: value.clone() for name, value in state.model.named_parameters()}
    with torch.no_grad():
        scales = run.network(batch["mixture"], batch["enroll"], batch["lengths"])[1]["scales"]
        each = [neg_si_sdr(scales[:, [number]], batch["target"][:, :, None]).mean() for number in range(3)]
    scalars = supervised_step(state, run, [batch], {"present": 2})
    torch.testing.assert_close(scalars["neg_si_sdr_of_scales"], 0.8 * each[0] + 0.1 * each[1] + 0.1 * each[2])
    assert [name for name, value in state.model.named_parameters() if torch.equal(before[name], value)] == []
    with pytest.raises(ValueError, match="'neg_si_sdr_of_scales' needs a network with several outputs of one target"):
        new_state(conf.model_copy(update={"model": film().model}), CPU, data.speakers)


def test_what_it_needs():
    with pytest.raises(ValueError, match="'speaker_cross_entropy' needs a model that makes an embedding"):
        new_state(conf_of("conditioned", params_of("conv_tasnet", "usef")), CPU, "abc")
    with pytest.raises(ValueError, match="needs the names of the training set's speakers; here are none"):
        new_state(film(), CPU)
    for inner, told_why in (
        ("speaker_cross_entropy", "compares no signals; neg_si_sdr does"),
        ("neg_si_sdr_of_scales", "is of several outputs for one target; neg_si_sdr is not"),
    ):
        with pytest.raises(ValueError, match=f"pit: '{inner}' {told_why}"):
            build_loss("pit", "present", {"loss": inner})
    with pytest.raises(ValueError, match="loss speaker_contrast: unknown option 'speakers'"):
        build_loss("speaker_contrast", "present", {"speakers": [1, 2]})


@pytest.mark.parametrize("options", [{"kind": "resnet", "channels": [4, 8]}, {"kind": "ecapa", "dim": 16}])
def test_an_encoder_learns_talkers_soon(options):
    """Twelve talkers in thirty small steps, which it does not if what all have in common reaches its last map."""
    torch.manual_seed(0)
    kind, *rest = options.values()
    encoder = SPEAKER_ENCODERS[kind](tiny.RATE, 16, *rest, num_mels=16)
    classifier = torch.nn.Linear(16, 12)
    optimizer = torch.optim.Adam([*encoder.parameters(), *classifier.parameters()], lr=1e-3)
    waves = np.stack([tiny.voice(f"{talker}-{number}", 3000) for talker in "abcdefghijkl" for number in (1, 2)])
    speakers = torch.arange(12).repeat_interleave(2)
    for _ in range(30):
        loss = speaker_cross_entropy(classifier(encoder(torch.from_numpy(waves))), speakers).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1.3  # 2.5 at the start, 1.5 and more without the norm
