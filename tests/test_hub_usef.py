"""Checkpoints of USEF-TSE and USEF-TSE-Mamba: there and back, and as their trainings save them."""

import os

import numpy as np
import pytest
import torch

import tse_lib
from tests.parity import rule
from tse_lib.bin.main import main
from tse_lib.hub import IMPORTERS, complete, export_checkpoint, import_checkpoint
from tse_lib.hub.names import to_published
from tse_lib.models import build_model

GRIDNET = {"n_fft": 32, "hop_length": 16, "win_length": 32, "num_blocks": 2, "emb_dim": 4, "lstm_hidden": 5}
GRIDNET |= {"num_heads": 2, "qk_dim": 3, "compat": True}
SEPFORMER = {"num_filters": 8, "kernel_size": 6, "stride": 3, "fusion_layers": 2, "num_blocks": 2, "intra_layers": 3}
SEPFORMER |= {"inter_layers": 2, "num_heads": 8, "ffn_dim": 12, "compat": True}
MAMBA = {"dim": 4, "kernel_sizes": [8, 6, 4], "num_blocks": 2, "num_heads": 2, "dropout": 0.2, "compat": True}
CASES = {
    "tf_gridnet": ("usef_tse", "usef_tf_gridnet", GRIDNET),
    "tf_gridnet_stacked": ("usef_tse", "usef_tf_gridnet", {**GRIDNET, "emb_ks": 2, "emb_hs": 2}),
    "tf_gridnet_unfolded": ("usef_tse", "usef_tf_gridnet", {**GRIDNET, "emb_ks": 3}),
    "sepformer": ("usef_tse", "usef_sepformer", SEPFORMER),
    "mamba": ("usef_tse_mamba", "usef_tse_mamba", MAMBA),
    "mamba_every_level": ("usef_tse_mamba", "usef_tse_mamba", {**MAMBA, "every_level": True, "activation": "prelu"}),
}


def published(case):
    """The published tensors of a case by the parity rule, float32."""
    layout, name, params = CASES[case]
    names = IMPORTERS[layout].names_of(name, complete(name, params))
    wanted = to_published(build_model(name, params, 8000, task=None).state_dict(), names)
    state = rule.state_of({key: list(value.shape) for key, value in wanted.items()}, {})
    return {key: state[key].float() if key in state else value for key, value in wanted.items()}


def written(case, path):
    """A file in the layout of a case."""
    layout, name, params = CASES[case]
    IMPORTERS[layout].write(path, name, complete(name, params), 8000, published(case))
    return path


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case, tmp_path, capsys):
    layout, name, params = CASES[case]
    there, packed, back = written(case, tmp_path / "there.pth.tar"), tmp_path / "packed", tmp_path / "back.pth.tar"
    assert main(["convert", str(there), "-o", str(packed)]) == 0, capsys.readouterr().err
    loaded = tse_lib.load(packed)
    assert loaded.sample_rate == 8000
    assert complete(name, loaded.conf.model.params) == complete(name, params)
    model = loaded.model
    assert model(torch.zeros(1, 1, 400), model.encode(torch.ones(1, 1, 200))).shape == (1, 1, 1, 400)
    assert main(["convert", str(packed), "--to", layout, "-o", str(back)]) == 0, capsys.readouterr().err
    before, after = torch.load(there)["model_state_dict"], torch.load(back)["model_state_dict"]
    assert before.keys() == after.keys()
    assert [key for key in before if not (before[key].equal(after[key]) or key.endswith(".pe"))] == []  # computed


def as_saved(case, **more):
    """What USEF-TSE's trainer saves: names under `module.` and states of random generators, numpy's among them."""
    state = {f"module.{key}": value for key, value in published(case).items()}
    states = {"trandom_state": torch.get_rng_state(), "nrandom_state": np.random.get_state()}
    return {"epoch": 3, "model_state_dict": state, "optimizer_state": {"state": {}}, **states, **more}


def test_numpys_states_of_random_generators_are_data(tmp_path):
    torch.save(as_saved("tf_gridnet"), tmp_path / "temp_best.pth.tar")
    name, params, rate, _, told, *_ = import_checkpoint(tmp_path / "temp_best.pth.tar")
    assert (name, rate, told) == ("usef_tf_gridnet", 8000, "USEF-TSE usef_tf_gridnet")
    assert complete(name, params) == complete(name, GRIDNET)


def test_files_of_numpy_1_are_read_too(tmp_path):
    torch.save(as_saved("tf_gridnet"), tmp_path / "new.pth.tar", _use_new_zipfile_serialization=False)
    content = (tmp_path / "new.pth.tar").read_bytes()
    assert content.count(b"cnumpy._core.multiarray\n") + content.count(b"cnumpy.core.multiarray\n") == 1
    for core in (b"core", b"_core"):
        other = content.replace(b"cnumpy._core.", b"cnumpy.core.").replace(b"cnumpy.core.", b"cnumpy." + core + b".")
        (tmp_path / "old.pth.tar").write_bytes(other)
        assert import_checkpoint(tmp_path / "old.pth.tar")[0] == "usef_tf_gridnet"


class Attack:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("wrap", [lambda attack: attack, lambda attack: np.array([attack], dtype=object)])
def test_code_beside_them_is_refused_and_not_run(tmp_path, wrap):
    torch.save(as_saved("tf_gridnet", nrandom_state=wrap(Attack(tmp_path / "ran"))), tmp_path / "a.pth.tar")
    with pytest.raises(ValueError, match="refused, it asks to run code"):
        import_checkpoint(tmp_path / "a.pth.tar")
    assert not (tmp_path / "ran").exists()


CONFIG = """
kernel_stride: 3
out_channels: 8
valid_path: /somewhere
Decoder: !new:models.model_USEF_SepFormer.Decoder
    stride: !ref <kernel_stride>
Intra: !new:models.local.TransformerEncoder.TransformerEncoder
    num_layers: 8
    nhead: 2
    normalize_before: True
MaskNet: !new:models.model_USEF_SepFormer.Tar_Model
    out_channels: !ref <out_channels>
    num_layers: 2
    K: 20
"""


def test_what_tensors_do_not_say_stands_in_config_yaml(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    params = import_checkpoint(written("sepformer", tmp_path / "a.pth.tar"), config=tmp_path / "config.yaml")[1]
    wanted = {**SEPFORMER, "num_heads": 2, "norm_first": True, "chunk_size": 20}
    assert complete("usef_sepformer", params) == complete("usef_sepformer", wanted)


def test_other_positions_than_ours_are_refused(tmp_path):
    saved = as_saved("sepformer")
    saved["model_state_dict"]["module.dual_mdl.1.pos_enc.pe"] += 0.01
    torch.save(saved, tmp_path / "a.pth.tar")
    with pytest.raises(ValueError, match=r"'dual_mdl\.1\.pos_enc\.pe' differs"):
        import_checkpoint(tmp_path / "a.pth.tar")


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("module.dual_mdl.0.intra_rnn.weight_hh_l0", "tensors of a USEF-TSE usef_tf_gridnet are missing or of another"),
        ("module.dual_mdl.1.intra_rnn.weight_hh_l0", r"1 missing: dual_mdl\.1\.intra_rnn\.weight_hh_l0"),
    ],
)
def test_missing_tensors(tmp_path, key, told):
    saved = as_saved("tf_gridnet")
    del saved["model_state_dict"][key]
    torch.save(saved, tmp_path / "a.pth.tar")
    with pytest.raises(ValueError, match=told):
        import_checkpoint(tmp_path / "a.pth.tar")


# ------------------------------------------------------------------------------------------------- USEF-TSE-Mamba


def test_averaged_weights_and_options_of_a_mamba(tmp_path):
    saved = torch.load(written("mamba", tmp_path / "best_model.pt"))
    model = {**saved["config"]["model"], "attention_dropout": 0.15, "use_residual": True}
    saved["config"] = {"model": model, "data": {"sample_rate": 16000}, "use_multi_gpu": False}
    averaged = {
        key: value + 1 if value.is_floating_point() else value for key, value in saved["model_state_dict"].items()
    }
    torch.save({**saved, "ema_state_dict": averaged}, tmp_path / "best_model.pt")
    name, params, rate, weights, told, *_ = import_checkpoint(tmp_path / "best_model.pt")
    assert (name, rate, told) == ("usef_tse_mamba", 16000, "USEF-TSE-Mamba, averaged weights")
    assert complete(name, params) == complete(name, MAMBA)
    assert weights["output.bias"].equal(averaged["final_decoder.3.bias"])
    del saved["config"]
    torch.save(saved, tmp_path / "best_model.pt")
    with pytest.raises(ValueError, match="holds no configuration; --config config.yaml or --preset usef_tse_mamba_v7"):
        import_checkpoint(tmp_path / "best_model.pt")


def test_a_network_that_does_what_theirs_does_not_is_not_written(tmp_path):
    for case in ("tf_gridnet", "mamba"):
        layout, name, params = CASES[case]
        params = {**params, "compat": False}
        weights = build_model(name, params, 8000, task=None).state_dict()
        with pytest.raises(ValueError, match="it cannot say compat: False"):
            export_checkpoint(layout, tmp_path / "a.pth.tar", name, params, 8000, weights)
    assert not list(tmp_path.iterdir())
