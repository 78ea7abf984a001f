"""Separation from the drawn text to the scores: all talkers are wanted, in no order."""

import itertools
import json

import numpy as np
import pytest
import torch

from tests import tiny
from tse_lib import audio
from tse_lib.bin.main import main
from tse_lib.bin.render import write_rendered
from tse_lib.config import Config, Sets, Simulation, build
from tse_lib.data.dataset import DrawnMixtures, RenderedMixtures, collate
from tse_lib.evaluation.score import best_order, score_mixture
from tse_lib.evaluation.summary import statistics
from tse_lib.losses.permutation import pit
from tse_lib.manifest import Mixture, write_mixtures
from tse_lib.simulation.sample import read_corpus, sample, sample_set
from tse_lib.training.state import new_state
from tse_lib.training.steps import Run, build_objective, new_run, supervised_step
from tse_lib.training.trainer import train, validate

CPU = torch.device("cpu")
SIMULATION = {
    "num_enrolls": 0,
    "segment_s": 0.4,
    "num_talkers": 2,
    "sir_db": [-5, 5],
    "snr_db": [5, 20],
    "noise_probability": 1.0,
    "level_dbfs": [-30, -20],
}
TF_GRIDNET = {
    "n_fft": 32, "hop_length": 16, "num_blocks": 1, "emb_dim": 4, "emb_ks": 2, "emb_hs": 2, "lstm_hidden": 4,
    "num_heads": 1, "qk_dim": 2,
}  # fmt: skip


def conf_with(train=None, talkers=2, **simulation) -> Config:
    wanted = tiny.values()
    wanted["simulation"] = {**SIMULATION, "num_talkers": talkers, **simulation}
    wanted["model"] = {"name": "tf_gridnet", "params": {**TF_GRIDNET, "num_sources": talkers}}
    wanted["loss"] = [{"name": "pit", "weight": 1.0, "params": {"loss": "neg_si_sdr"}}]
    wanted["train"].update(train or {})
    return build(Config, wanted, "conf")


@pytest.fixture(scope="module")
def corpus(corpus_dir):
    return read_corpus(corpus_dir / "train", corpus_dir / "noise", corpus_dir / "rir", "separate")


def make_set(folder, corpus_dir, num_mixtures=3, **simulation):
    """A rendered set of separations."""
    one = {
        "num_mixtures": num_mixtures, "speech": "dev_speech", "noise": "noise_dev", "rirs": "rir",
        "simulation": {**SIMULATION, **simulation},
    }  # fmt: skip
    sets = build(Sets, {"seed": 3, "sample_rate": tiny.RATE, "sets": {"dev": one}}, "sets")
    _, mixtures = sample_set(corpus_dir, "dev", sets)
    write_mixtures(folder / "mixtures.jsonl", mixtures)
    for mixture in mixtures:
        write_rendered(str(folder), mixture)
    return mixtures


@pytest.fixture(scope="module")
def dev_dir(corpus_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("separation") / "dev"
    make_set(folder, corpus_dir)
    return folder


# ------------------------------------------------------------------------------------------------------------ mixtures


def drawn(corpus, index=0, **simulation):
    conf = build(Simulation, {**SIMULATION, **simulation}, "simulation")
    return sample(corpus, conf, tiny.RATE, 0, "train", f"train-{index}")


@pytest.mark.parametrize("talkers", [1, 2, 3])
def test_a_mixture_wants_all_its_talkers(corpus, talkers):
    mixture = drawn(corpus, num_talkers=talkers)
    assert mixture.enrolls == () and mixture.target_present
    assert mixture.targets == mixture.talkers and len({talker.spk_id for talker in mixture.talkers}) == talkers
    assert Mixture.from_json(mixture.to_json()) == mixture


def test_no_enrolments_move_no_other_draw(corpus):
    alone, named = drawn(corpus), drawn(corpus, num_enrolls=1, enroll_s=0.3)
    assert alone.talkers == named.talkers and alone.noise == named.noise and named.enrolls
    assert named.targets == named.talkers[:1]


@pytest.mark.parametrize("target", ["reverberant", "early", "dry"])
def test_the_targets_are_the_talkers_of_the_mixture(corpus, target):
    """Their rendered references: in the room as they are received, or what of it is wanted, sample by sample."""
    data = DrawnMixtures(corpus, conf_with(rir_probability=1.0, target=target, noise_probability=0.0))
    item = data[0]
    assert item["target"].shape == (2, len(item["mixture"])) and item["enrolls"] == []
    left = item["mixture"] - item["target"].sum(0)
    assert (left.abs().max() < 1e-5) == (target == "reverberant")
    other = DrawnMixtures(corpus, conf_with(rir_probability=1.0, noise_probability=0.0))[0]
    assert torch.equal(item["mixture"], other["mixture"])
    correlation = [
        float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(item["target"], other["target"], strict=True)
    ]
    crossed = [
        float(torch.corrcoef(torch.stack(pair))[0, 1])
        for pair in zip(item["target"], other["target"].flip(0), strict=True)
    ]
    assert min(correlation) > max(crossed) + 0.2


def test_a_batch_has_no_enrolments(corpus):
    data = DrawnMixtures(corpus, conf_with(talkers=3))
    batch = collate([data[0], data[1]])
    assert batch["target"].shape == (2, 3, 3200) and batch["mixture"].shape == (2, 1, 3200)
    assert "enroll" not in batch and "lengths" not in batch and batch["present"].all()


@pytest.mark.parametrize("target", ["reverberant", "dry"])
def test_a_set_is_read_back_as_it_was_rendered(corpus_dir, tmp_path, target):
    make_set(tmp_path, corpus_dir, rir_probability=1.0, target=target, noise_probability=0.0)
    item = RenderedMixtures(str(tmp_path), tiny.RATE)[0]
    assert item["target"].shape == (2, 3200)
    assert ((item["mixture"] - item["target"].sum(0)).abs().max() < 1e-5) == (target == "reverberant")


def test_the_reference_of_an_extraction_is_what_is_wanted_of_the_image(corpus_dir, tmp_path):
    """Dry where the set says so, although the mixture holds the image in its room."""
    for target in ("reverberant", "dry"):
        make_set(
            tmp_path / target, corpus_dir, rir_probability=1.0, noise_probability=0.0, target=target, num_enrolls=1,
            enroll_s=0.3,
        )  # fmt: skip
    wet, dry = (RenderedMixtures(str(tmp_path / target), tiny.RATE)[0] for target in ("reverberant", "dry"))
    torch.testing.assert_close(wet["mixture"], dry["mixture"], rtol=0, atol=1e-6)
    assert (wet["target"] - dry["target"]).abs().max() > 0.01


# ------------------------------------------------------------------------------------------------------------ training


def test_the_loss_does_not_see_the_order_of_talkers(corpus):
    conf = conf_with({"batch_size": 2})
    data, losses = DrawnMixtures(corpus, conf), []
    for flipped in (False, True):
        state = new_state(conf, CPU)
        run: Run = new_run(conf, state, CPU)
        batch = collate([data[0], data[1]])
        if flipped:
            batch["target"] = batch["target"].flip(1)
        losses.append(float(supervised_step(state, run, [batch], {"present": 2, "absent": 0})["loss"]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_it_learns(corpus, dev_dir, tmp_path):
    """The loss on a repeated batch falls far below that of the first step."""
    state = train(
        conf_with({"max_steps": 60, "overfit_batches": 1, "lr": 2e-2, "batch_size": 2, "valid_every": 60}),
        corpus, str(dev_dir), tmp_path, CPU,
    )  # fmt: skip
    losses = [json.loads(line)["pit"] for line in (tmp_path / "log" / "train.jsonl").read_text().splitlines()]
    assert state.step == 60 and np.mean(losses[-5:]) < losses[0] - 3


def test_the_development_score_takes_the_best_order(dev_dir):
    class Swapped(torch.nn.Module):
        """Puts out the references of the mixtures, the other way round."""

        def __init__(self):
            super().__init__()
            self.items = iter(items)

        def forward(self, mixture):
            return next(self.items)["target"].flip(0)[None, :, None] + 1e-3 * mixture[:, None]

    dev = RenderedMixtures(str(dev_dir), tiny.RATE)
    items = [dev[index] for index in range(len(dev))]
    scores = validate(Swapped(), dev, CPU, torch.autocast("cpu", enabled=False))
    wanted = [-pit(item["target"].flip(0)[None] + 1e-3 * item["mixture"], item["target"][None]) for item in items]
    assert scores["si_sdr"] == pytest.approx(float(torch.cat(wanted).mean()), abs=1e-3) and scores["si_sdr"] > 30


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"model": {"name": "hifi_tse", "params": tiny.MODEL}}, "'hifi_tse' can extract, not separate"),
        ({"model": {"name": "tf_gridnet", "params": {**TF_GRIDNET, "num_sources": 3}}}, "num_sources 3, .*talkers 2"),
        ({"loss": [{"name": "neg_si_sdr", "weight": 1}]}, "talkers have no order; .*pit"),
        ({"curriculum": [{"until_step": 2, "simulation": {"num_talkers": 1}}]}, "the same for the whole training"),
        ({"curriculum": [{"until_step": 2, "simulation": {"num_enrolls": 1, "enroll_s": 1}}]}, "num_enrolls"),
    ],
)
def test_what_does_not_fit_a_separation_is_refused(change, fault):
    with pytest.raises(ValueError, match=fault):
        conf = build(Config, {**conf_with().model_dump(), **change}, "conf")
        new_state(conf, CPU)
        build_objective(conf)


def test_a_development_set_of_another_task_is_refused(corpus, corpus_dir, dev_dir, tmp_path):
    with pytest.raises(ValueError, match="is there to extract, the model to separate"):
        train(conf_with(), corpus, str(corpus_dir / "dev"), tmp_path, CPU)
    with pytest.raises(ValueError, match="has 2 talkers, the model 3 outputs"):
        train(conf_with(talkers=3), corpus, str(dev_dir), tmp_path, CPU)


def test_speakers_with_one_utterance_can_be_separated(tmp_path):
    tiny.write_set(tmp_path / "one", {f"{talker}-0": tiny.voice(f"{talker}-0", 4000) for talker in "ab"})
    assert read_corpus(tmp_path / "one", task="separate").speakers == ["a", "b"]
    with pytest.raises(ValueError, match="with one utterance"):
        read_corpus(tmp_path / "one")


# ------------------------------------------------------------------------------------------------------------- scoring


def test_the_best_order_is_found_whatever_the_order_is():
    draw = np.random.default_rng(0)
    references = list(draw.standard_normal((4, 800)))
    for order in itertools.permutations(range(4)):
        estimates = [references[number] + 0.3 * draw.standard_normal(800) for number in order]
        assert [order[number] for number in best_order(references, estimates)] == [0, 1, 2, 3]
    silent = [references[0], np.zeros(800), references[2], references[3]]  # an estimate without an SI-SDR
    assert best_order(references, silent) == [0, 1, 2, 3]


def write_estimates(folder, item, order, error=0.1):
    draw = np.random.default_rng(1)
    for number, place in enumerate(order, 1):
        wave = item["target"][place].numpy() + error * 0.05 * draw.standard_normal(3200).astype(np.float32)
        audio.write(folder / f"source{number}" / f"{item['mix_id']}.wav", wave, tiny.RATE)


def test_every_source_has_its_line_of_scores(corpus_dir, dev_dir, tmp_path):
    dev = RenderedMixtures(str(dev_dir), tiny.RATE)
    for order in ((0, 1), (1, 0)):
        folder = tmp_path / str(order)
        write_estimates(folder, dev[0], order)
        lines = score_mixture(dev_dir, folder, dev.mixtures[0], {})
        assert [line["source"] for line in lines] == [1, 2]
        assert [line["estimate"] for line in lines] == [place + 1 for place in np.argsort(order)]
        assert [line["target_spk"] for line in lines] == [talker.spk_id for talker in dev.mixtures[0].talkers]
        assert all(line["si_sdri"] > 5 and not line["confused"] and line["sir"] > line["sir_mixture"] for line in lines)


def test_a_missing_source_is_named(corpus_dir, dev_dir, tmp_path):
    dev = RenderedMixtures(str(dev_dir), tiny.RATE)
    write_estimates(tmp_path, dev[0], (0,))
    with pytest.raises(FileNotFoundError, match="source2.*no estimate"):
        score_mixture(dev_dir, tmp_path, dev.mixtures[0], {})


def test_the_interval_counts_mixtures_not_sources():
    """Sources with the score of their mixture say no more than one source would."""
    base = {"target_present": True}
    values = np.random.default_rng(0).standard_normal(40)
    once = [{**base, "mix_id": f"m{n}", "target_spk": f"s{n}", "si_sdri": value} for n, value in enumerate(values)]
    twice = [{**line, "target_spk": line["target_spk"] + side} for line in once for side in "ab"]
    width = [np.diff(statistics(lines, "all")["si_sdri"]["ci95"])[0] for lines in (once, twice)]
    assert width[1] == pytest.approx(width[0], rel=1e-6)
    apart = [{**line, "mix_id": f"n{number}"} for number, line in enumerate(twice)]
    assert np.diff(statistics(apart, "all")["si_sdri"]["ci95"])[0] < 0.8 * width[0]


# ------------------------------------------------------------------------------------------------------ the whole chain


def test_from_a_conf_to_results(corpus_dir, dev_dir, tmp_path, monkeypatch):
    conf = conf_with({"max_steps": 4})
    exp, data = tmp_path / "exp" / "tiny", tmp_path / "data"
    data.mkdir()
    for name in ("train", "noise"):
        (data / name).symlink_to(corpus_dir / name)
    (data / "dev").symlink_to(dev_dir)
    (tmp_path / "tiny.yaml").write_text(json.dumps(json.loads(conf.model_dump_json())), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    steps = [
        "train --conf tiny.yaml --data data --noise noise --dev dev --exp exp/tiny",
        "infer --model exp/tiny/best.pt --data data/dev --out exp/tiny/dev/wav --device cpu",
        "score --data data/dev --est exp/tiny/dev/wav --out exp/tiny/dev/scores.part",
        "results --exp exp/tiny --sets dev --conf tiny.yaml",
    ]
    for step in steps:
        assert not main(step.split()), step
    lines = [json.loads(line) for line in (exp / "dev" / "scores.jsonl").read_text().splitlines()]
    assert [(line["mix_id"], line["source"]) for line in lines] == [
        (f"dev-0000{n}", s) for n in range(3) for s in (1, 2)
    ]
    summary = json.loads((exp / "dev" / "summary.json").read_text())
    assert summary["n"] == summary["n_present"] == 6 and "sar" in summary["metrics"]
    assert "num_enrolls=0" not in summary["groups"]
    results = (tmp_path / "RESULTS.md").read_text()
    assert "| [tiny](#tiny) | dev | 6 |" in results
    params = sum(parameter.numel() for parameter in new_state(conf, CPU).model.parameters())
    assert f"| tiny | tf_gridnet | {params:,} | 0.0" in results and "| 4 | 0.0" in results
    page = (exp / "report" / "index.html").read_text()
    assert "source 2" in page and ">Separation<" in page
    assert "Enrolment" not in page and "Silence where nobody is wanted" not in page
