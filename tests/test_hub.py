"""Checkpoints of the HiFi_TSE project: every tensor must fit, the averaged ones are taken, nothing is executed."""

import os

import pytest
import torch

import tse_lib
from tse_lib.bin.main import main
from tse_lib.hub import import_checkpoint
from tse_lib.models import build_model
from tse_lib.models.presets import HIFI_TSE_V1, HIFI_TSE_V2


def weights_of(params, seed):
    torch.manual_seed(seed)
    return build_model("hifi_tse", params, 48000).state_dict()


@pytest.fixture(scope="module")
def raw():
    return weights_of(HIFI_TSE_V2, 1)


@pytest.fixture(scope="module")
def averaged():
    return weights_of(HIFI_TSE_V2, 2)


def as_averaged_model(weights):
    """The names torch's AveragedModel stores."""
    return {"n_averaged": torch.tensor(7), **{f"module.{name}": value for name, value in weights.items()}}


def test_v1_to_a_packed_model(tmp_path, capsys):
    raw = weights_of(HIFI_TSE_V1, 1)
    torch.save({"generator": raw, "step": 5, "optimizer_g": {"state": {}}}, tmp_path / "v1.pt")
    assert main(["convert", str(tmp_path / "v1.pt"), "-o", str(tmp_path / "packed")]) == 0
    assert (
        "HiFi-TSE v1, raw weights (generator), step 5; hifi_tse, 48000 Hz, 7,805,420 parameters"
        in capsys.readouterr().out
    )
    loaded = tse_lib.load(tmp_path / "packed")
    assert loaded.sample_rate == 48000
    assert loaded.model.film is None and list(loaded.model.gridnet.reinject_layers) == ["0", "2", "4"]
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, raw[name]), name


def test_v2_prefers_the_averaged_weights(tmp_path, raw, averaged):
    torch.save({"generator": raw, "ema_generator": as_averaged_model(averaged)}, tmp_path / "v2.pt")
    name, params, sample_rate, weights, told, *_ = import_checkpoint(tmp_path / "v2.pt")
    assert (name, sample_rate) == ("hifi_tse", 48000) and params == HIFI_TSE_V2
    assert "v2, averaged weights" in told
    assert weights.keys() == averaged.keys()
    assert all(torch.equal(weights[key], averaged[key]) for key in weights)


def test_every_tensor_that_does_not_fit_is_named(tmp_path, raw):
    wrong = dict(raw)
    del wrong["usef.norm.bias"]
    wrong["film.more"] = torch.ones(1)
    wrong["usef.norm.weight"] = torch.ones(7)
    torch.save({"generator": wrong}, tmp_path / "v2.pt")
    with pytest.raises(ValueError) as error:
        import_checkpoint(tmp_path / "v2.pt")
    for text in ("1 missing: usef.norm.bias", "1 unexpected: film.more", "1 of another shape: usef.norm.weight"):
        assert text in str(error.value)


def test_a_misfit_leaves_no_folder(tmp_path, raw, capsys):
    torch.save({"generator": {**raw, "film.more": torch.ones(1)}}, tmp_path / "v2.pt")
    assert main(["convert", str(tmp_path / "v2.pt"), "-o", str(tmp_path / "packed")]) == 4
    assert capsys.readouterr().err.startswith("tse convert: error: ") and not (tmp_path / "packed").exists()


@pytest.mark.parametrize(
    "saved", [{"state_dict": {}}, {"generator": {}}, {"generator": {"gridnet.x": torch.ones(1)}}, [1, 2]]
)
def test_what_is_not_recognised(tmp_path, saved):
    torch.save(saved, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: not recognised .*known: hifi_tse"):
        import_checkpoint(tmp_path / "a.pt")


class Attack:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_is_refused_and_not_run(tmp_path):
    torch.save({"generator": {"gridnet.x": Attack(tmp_path / "ran")}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="refused, it asks to run code"):
        import_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()
