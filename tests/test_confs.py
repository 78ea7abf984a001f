"""Every conf of every recipe builds its model and takes a step."""

from pathlib import Path

import pytest
import torch
import yaml

from tests import tiny
from tests.test_matrix import params_of
from tse_lib.bin.check import check
from tse_lib.bin.main import main
from tse_lib.config import Config, build, load_config, load_sets
from tse_lib.models import OneCall, build_model
from tse_lib.models.presets import count_macs

ROOT = Path(__file__).parent.parent
ALL = sorted(ROOT.glob("egs/*/*/conf/*.yaml"))
SETS = [path for path in ALL if path.name.startswith("sets")]
EXPERIMENTS = [path for path in ALL if path not in SETS and path.name != "published.yaml"]
HEAVY_GMAC = 20  # forward passes of a batch that need more are shrunk to one item of half a second


def name_of(path):
    return str(path.relative_to(ROOT / "egs"))


def cost(conf):
    """GMAC of a forward pass over one optimizer step's mixtures."""
    model = build_model(conf.model.name, conf.model.params, conf.sample_rate, conf.simulation.task).eval()
    wave = torch.zeros(1, 1, conf.sample_rate // 2)
    enroll = [wave] if conf.simulation.task == "extract" else []
    per_s = 2 * count_macs(model, lambda: OneCall(model)(wave, *enroll)) / 1e9
    return per_s * conf.simulation.segment_s[1] * conf.train.batch_size * conf.train.accumulate


def test_there_are_confs():
    assert EXPERIMENTS and SETS


# At full size; those of v3 are v2 with one change each, at 48 kHz: tests/test_models.py has them small.
SLOW = ("v1_gan", "v2_gan", "v3_", "mdx23c")
STEPS = [
    pytest.param(path, id=name_of(path), marks=pytest.mark.slow if path.name.startswith(SLOW) else ())
    for path in EXPERIMENTS
]


@pytest.mark.parametrize("path", STEPS)
def test_an_experiment_takes_a_step(path):
    fresh = ["train.init_from=null"]  # the experiment that it goes on from has not been trained here
    if load_config(path).train.distill:
        fresh += ["train.step=supervised", "train.distill=null"]  # nor has its teacher
    conf = load_config(path, fresh)
    if cost(conf) > HEAVY_GMAC:
        least = 1 + any(term.name == "masked_mse" for term in conf.loss)  # which leaves the worst item out
        small = [f"train.batch_size={least}", "train.accumulate=1", "simulation.segment_s=0.5"]
        small += ["simulation.enroll_s=0.5"] if conf.simulation.task == "extract" else []
        conf = load_config(path, [*fresh, *small])
    report = check(conf, torch.device("cpu"), 1, None)
    assert report["model"] == conf.model.name


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_an_experiment_goes_on_from_one_beside_it(path):
    train = load_config(path).train
    for start in (train.init_from, train.distill and train.distill.teacher):
        assert start is None or (path.parent / f"{Path(start).parent.name}.yaml").exists()


@pytest.mark.parametrize("path", SETS, ids=name_of)
def test_sets_agree_with_the_experiments_beside_them(path):
    sets = load_sets(path)
    assert {"dev", "test"} <= {name.split("_")[0] for name in sets.sets}
    for experiment in EXPERIMENTS:
        if experiment.parent == path.parent and path.name == "sets.yaml":
            assert load_config(experiment).sample_rate == sets.sample_rate


def test_a_network_that_is_given_embeddings_is_checked_without_data():
    values = tiny.values()
    params = params_of("dprnn", "film")
    values["model"] = {"name": "conditioned", "params": params | {"speaker": {"kind": "given", "embedding_dim": 6}}}
    assert check(build(Config, values, "conf"), torch.device("cpu"), 1, None)["model"] == "conditioned"


def test_no_steps_are_no_check(tmp_path, capsys):
    (tmp_path / "conf.yaml").write_text(yaml.safe_dump(tiny.values()))
    with pytest.raises(SystemExit):
        main(["check", str(tmp_path / "conf.yaml"), "--steps", "0"])
    assert "a whole number above 0 expected, got '0'" in capsys.readouterr().err


def test_a_mel_loss_of_another_rate_is_refused():
    values = tiny.values()
    values["loss"].append({"name": "multi_resolution_mel", "weight": 1})
    with pytest.raises(ValueError, match=r"are of 44100 Hz, the conf has 8000 Hz; give params: {sample_rate: 8000}"):
        check(build(Config, values, "conf"), torch.device("cpu"), 1, None)


def test_a_conf_that_cannot_train_is_noticed(tmp_path):
    wanted = tiny.conf_of()
    broken = wanted.model_copy(update={"model": wanted.model.model_copy(update={"params": {"n_fft": 64}})})
    with pytest.raises(ValueError, match="model hifi_tse: .*missing"):
        check(broken, torch.device("cpu"), 1, None)
