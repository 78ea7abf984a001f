"""Public layouts of separators: there and back they are identical, and what does not fit exactly is refused."""

import json
import os
import zipfile

import pytest
import torch
import yaml
from torch.torch_version import TorchVersion

from tests.parity import rule
from tse_lib.bin.main import main
from tse_lib.hub import IMPORTERS, complete, export_checkpoint, import_checkpoint, speechbrain
from tse_lib.hub.found import Given
from tse_lib.hub.names import to_published
from tse_lib.hub.source import opened, read_tagged_yaml
from tse_lib.inference.packed import read_packed
from tse_lib.models import build_model

FILTERS = {"num_filters": 8, "kernel_size": 4, "stride": 2}
BLOCKS = {"bottleneck_dim": 6, "hidden_dim": 5, "num_blocks": 2, "num_repeats": 3, "num_sources": 3}
CHUNKS = {"chunk_size": 10, "num_blocks": 2, "num_sources": 3}
CONV_TASNET = {**FILTERS, **BLOCKS, "skip_dim": 4}
SPEECHBRAIN_TASNET = {**FILTERS, **BLOCKS, **speechbrain.ALWAYS["conv_tasnet"], "mask": "relu", "reflect": True}
DPRNN = {**FILTERS, **CHUNKS, "bottleneck_dim": 6, "hidden_dim": 5}
SPEECHBRAIN_DPRNN = {**DPRNN, **speechbrain.ALWAYS["dprnn"]}
DPTNET = {**FILTERS, **CHUNKS, "hidden_dim": 5, "num_heads": 2}
SEPFORMER = {**FILTERS, **CHUNKS, "num_layers": 2, "num_heads": 2, "ffn_dim": 12}
GRIDNET = {"n_fft": 16, "hop_length": 8, "num_blocks": 2, "emb_dim": 6, "num_heads": 2, "num_sources": 3, "qk_dim": 3}
TF_GRIDNET = {**GRIDNET, "lstm_hidden": 5}
MOSSFORMER2 = {"num_sources": 3, "encoder_dim": 16, "kernel_size": 8, "dim": 16, "num_layers": 2, "hidden_dim": 64}
SEPMAMBA = {"dim": 8, "kernel_sizes": [8, 6, 4], "num_blocks": 2}

TFC_TDF = {
    "num_sources": 3, "audio_channels": 2, "n_fft": 64, "hop_length": 16, "dim_f": 32, "num_channels": 4, "growth": 2,
    "num_scales": 2, "num_subbands": 2, "bottleneck_factor": 2,
}  # fmt: skip

CASES = {  # layout, our network
    "asteroid_conv_tasnet": ("asteroid", "conv_tasnet", {**CONV_TASNET, "encoder_relu": True}),
    "asteroid_conv_tasnet_causal": ("asteroid", "conv_tasnet", {**CONV_TASNET, "norm": "cLN", "causal": True}),
    "asteroid_dprnn": ("asteroid", "dprnn", DPRNN),
    "asteroid_dptnet": ("asteroid", "dptnet", DPTNET),
    "speechbrain_sepformer": ("speechbrain", "sepformer", SEPFORMER),
    "speechbrain_conv_tasnet": ("speechbrain", "conv_tasnet", SPEECHBRAIN_TASNET),
    "speechbrain_dprnn": ("speechbrain", "dprnn", SPEECHBRAIN_DPRNN),
    "espnet_tf_gridnet_v1": ("espnet", "tf_gridnet", {**TF_GRIDNET, "padding": "end"}),
    "espnet_tf_gridnet_v2": ("espnet", "tf_gridnet", {**TF_GRIDNET, "emb_ks": 1}),
    "espnet_tf_gridnet_v3": ("espnet", "tf_gridnet", {**TF_GRIDNET, "full_band_norm": False, "normalize": True}),
    "espnet_dptnet": ("espnet", "dptnet", {**DPTNET, "norm_eps": torch.finfo(torch.float32).eps}),
    "look2hear_spmamba": ("look2hear", "spmamba", GRIDNET),
    "mossformer2": ("mossformer2", "mossformer2", MOSSFORMER2),
    "mossformer2_hf": ("mossformer2_hf", "mossformer2", {**MOSSFORMER2, "masking": False}),
    "sepmamba": ("sepmamba", "sepmamba", SEPMAMBA),
    "sepmamba_causal": ("sepmamba", "sepmamba", {**SEPMAMBA, "causal": True}),
    "mdx23c": ("mdx23c", "tfc_tdf", TFC_TDF),
    "polsess_conv_tasnet": ("polsess", "conv_tasnet", {**SPEECHBRAIN_TASNET, "norm_eps": 1e-4}),
    "polsess_dprnn": ("polsess", "dprnn", {**SPEECHBRAIN_DPRNN, "bottleneck_dim": 8}),
    "polsess_sepformer": ("polsess", "sepformer", {**SEPFORMER, "use_positions": False}),
    "polsess_spmamba": ("polsess", "spmamba", GRIDNET),
    "polsess_mossformer2": ("polsess", "mossformer2", MOSSFORMER2),
}


def published(case):
    """The published tensors of a case by the parity rule, float32."""
    layout, name, params = CASES[case]
    names = IMPORTERS[layout].names_of(name, complete(name, params))
    wanted = to_published(build_model(name, params, 8000, task=None).state_dict(), names)
    state = rule.state_of({key: list(value.shape) for key, value in wanted.items()}, {})
    return {key: value.float() for key, value in state.items()}


def written(case, path, tensors=None):
    """A file or folder in the layout of a case."""
    layout, name, params = CASES[case]
    IMPORTERS[layout].write(path, name, complete(name, params), 8000, tensors or published(case))
    return path


def read_back(case, path):
    with opened(path) as source:
        return IMPORTERS[CASES[case][0]].read(source, Given(sample_rate=8000))


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case, tmp_path, capsys):
    layout, name, params = CASES[case]
    there = written(case, tmp_path / "there")
    command = ["convert", str(there), "-o", str(tmp_path / "packed"), "--sample_rate", "8000"]
    assert main(command) == 0, capsys.readouterr().err
    weights, conf = read_packed(tmp_path / "packed")
    assert conf.model.name == name
    found, told = complete(name, conf.model.params), complete(name, params)
    assert {**found, "dropout": 0} == {**told, "dropout": 0}
    network = build_model(name, conf.model.params, conf.sample_rate, task=None)
    network.load_state_dict(weights)
    assert network(torch.zeros(1, 1, 400)).shape == (1, params.get("num_sources", 2), 1, 400)

    assert main(["convert", str(tmp_path / "packed"), "--to", layout, "-o", str(tmp_path / "back")]) == 0
    before, after = published(case), read_back(case, tmp_path / "back").tensors
    assert after.keys() == before.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []


# ------------------------------------------------------------------------------------------------ as found in the wild

HYPERPARAMS = """
seed: 1234
__set_seed: !apply:torch.manual_seed [!ref <seed>]
output_folder: !ref results/<seed>/sepformer
sample_rate: 8000
num_spks: 3
out_channels: 8
kernel_size: 4
kernel_stride: 2
Encoder: !new:speechbrain.lobes.models.dual_path.Encoder
    kernel_size: !ref <kernel_size>
    out_channels: !ref <out_channels>
SBtfintra: !new:speechbrain.lobes.models.dual_path.SBTransformerBlock
    num_layers: 2
    d_model: !ref <out_channels>
    nhead: 2
    d_ffn: 12
    dropout: 0
    use_positional_encoding: True
    norm_before: True
SBtfinter: !new:speechbrain.lobes.models.dual_path.SBTransformerBlock
    num_layers: 2
    d_model: !ref <out_channels>
    nhead: 2
    d_ffn: 12
    dropout: 0
    use_positional_encoding: True
    norm_before: True
MaskNet: !new:speechbrain.lobes.models.dual_path.Dual_Path_Model
    num_spks: !ref <num_spks>
    in_channels: !ref <out_channels>
    out_channels: !ref <out_channels>
    num_layers: 2
    K: 10
    intra_model: !ref <SBtfintra>
    inter_model: !ref <SBtfinter>
    norm: ln
    linear_layer_after_inter_intra: False
    skip_around_intra: True
Decoder: !new:speechbrain.lobes.models.dual_path.Decoder
    in_channels: !ref <out_channels>
    out_channels: 1
    kernel_size: !ref <kernel_size>
    stride: !ref <kernel_stride>
    bias: False
optimizer: !name:torch.optim.Adam
    lr: 0.00015
modules:
    encoder: !ref <Encoder>
"""


@pytest.fixture
def sepformer(tmp_path):
    """A SpeechBrain folder whose hyperparams.yaml is a recipe's."""
    folder = written("speechbrain_sepformer", tmp_path / "sepformer")
    (folder / "hyperparams.yaml").write_text(HYPERPARAMS)
    return folder


def test_a_speechbrain_recipe_is_read_and_not_acted_on(sepformer):
    name, params, rate, _, told, *_ = import_checkpoint(sepformer)
    assert (name, rate, told) == ("sepformer", 8000, "SpeechBrain sepformer")
    assert complete(name, params) == complete(name, SEPFORMER)


@pytest.mark.parametrize(
    ("line", "instead", "told"),
    [
        ("    norm: ln", "    norm: gln", "norm 'gln' is not built here, only 'ln'"),
        ("    norm: ln", "    norm: ln\n    normal: 3", "unknown option 'normal', the nearest is 'norm'"),
        ("skip_around_intra: True", "skip_around_intra: False", "skip_around_intra False is not built here"),
        ("    stride: !ref <kernel_stride>", "    stride: 1", "stride 1 is not half of kernel_size"),
        ("    K: 10", "    K: !ref <K>", "!ref <K> leads nowhere"),
        ("seed: 1234", "seed: !!python/object/apply:os.mkdir [ran]", "refused, .*python/object/apply:os.mkdir"),
        ("seed: 1234", "seed: !ref <seed>", "lead to each other"),
        ("sample_rate: 8000", "", "has no sample_rate; --sample_rate"),
        ("Dual_Path_Model", "SepformerWrapper", "one MaskNet or Dual_Path_Model expected .* has .*SepformerWrapper"),
    ],
)
def test_speechbrain_options_that_we_do_not_have(sepformer, line, instead, told, monkeypatch):
    monkeypatch.chdir(sepformer)
    (sepformer / "hyperparams.yaml").write_text(HYPERPARAMS.replace(line, instead))
    with pytest.raises(ValueError, match=told):
        import_checkpoint(sepformer)
    assert not (sepformer / "ran").exists()


def test_a_folder_without_options_needs_a_preset(sepformer, tmp_path):
    (sepformer / "hyperparams.yaml").rename(tmp_path / "other.yaml")
    assert import_checkpoint(sepformer, config=tmp_path / "other.yaml")[0] == "sepformer"
    with pytest.raises(ValueError, match=r"hyperparams\.yaml is missing.*--preset NAME"):
        import_checkpoint(sepformer)
    with pytest.raises(ValueError, match="tensors do not fit"):  # of that size it is not
        import_checkpoint(sepformer, preset="sepformer")
    with pytest.raises(ValueError, match="cannot be a spmamba"):
        import_checkpoint(sepformer, preset="spmamba")
    with pytest.raises(ValueError, match=r"--preset sepfromer: unknown"):
        import_checkpoint(sepformer, preset="sepfromer")
    with pytest.raises(ValueError, match=r"--sample_rate 0: must be above 0"):  # not: as if it were not given
        import_checkpoint(sepformer, preset="sepformer", sample_rate=0)


@pytest.mark.parametrize("refs", [True, False])
def test_the_cache_of_hugging_face(sepformer, tmp_path, monkeypatch, refs):
    """Its snapshots are links to blobs, and SpeechBrain makes folders of links to those."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = tmp_path / "hub" / "models--speechbrain--sepformer-wsj02mix"
    snapshot, blobs = cached / "snapshots" / "0123abc", cached / "blobs"
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    sepformer.rename(blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    if refs:
        (cached / "refs" / "main").write_text("0123abc")
        (cached / "snapshots" / "older").mkdir()
    savedir = tmp_path / "pretrained"
    savedir.mkdir()
    for file in blobs.iterdir():
        (savedir / file.name).symlink_to(snapshot / file.name)
    for path in (cached, snapshot, savedir, "sepformer_wsj02mix", "speechbrain/sepformer-wsj02mix"):
        assert import_checkpoint(path)[0] == "sepformer"
    (cached / "snapshots" / "newer").mkdir()
    (cached / "refs" / "main").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="which revision is not clear; .* 0123abc, newer"):
        import_checkpoint(cached)


def test_a_name_that_is_not_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="huggingface-cli download speechbrain/sepformer-wham"):
        import_checkpoint("sepformer_wham")


def test_a_link_out_of_the_folder(sepformer, tmp_path):
    (sepformer / "masknet.ckpt").rename(tmp_path / "elsewhere.ckpt")
    (sepformer / "masknet.ckpt").symlink_to(tmp_path / "elsewhere.ckpt")
    with pytest.raises(ValueError, match=r"'masknet\.ckpt' leads out of it"):
        import_checkpoint(sepformer)


def test_asteroid_tells_the_version_of_torch_in_a_class_of_its_own(tmp_path):
    path = written("asteroid_dprnn", tmp_path / "model.pth")
    saved = torch.load(path)
    saved["infos"] = {"software_versions": {"torch_version": TorchVersion("1.13.0")}}
    saved["model_args"] |= {"hop_size": 5, "out_chan": 8, "fb_name": "FreeFB"}
    torch.save(saved, path)
    assert import_checkpoint(path)[4] == "Asteroid DPRNNTasNet"


@pytest.mark.parametrize(
    ("option", "value"),
    [("hop_size", 3), ("rnn_type", "GRU"), ("num_layers", 2), ("bidirectional", False), ("out_chan", 9),
     ("norm_type", "cLN"), ("fb_name", "stft"), ("encoder_activation", "tanh"), ("mask_act", "softmax")],
)  # fmt: skip
def test_asteroid_options_that_we_do_not_have(tmp_path, option, value):
    saved = torch.load(written("asteroid_dprnn", tmp_path / "model.pth"))
    saved["model_args"][option] = value
    torch.save(saved, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=f"{option} {value!r} is not built here"):
        import_checkpoint(tmp_path / "model.pth")


def test_a_model_of_ours_is_told_from_them(tmp_path, checkpoint_path):
    with pytest.raises(ValueError, match="it holds a model of ours, which tse export packs"):
        import_checkpoint(checkpoint_path)
    torch.save({0: torch.zeros(1)}, tmp_path / "numbers.pt")
    with pytest.raises(ValueError, match=r"not recognised \(it holds 0\)"):
        import_checkpoint(tmp_path / "numbers.pt")


def test_asteroid_models_that_we_do_not_have(tmp_path):
    saved = torch.load(written("asteroid_dprnn", tmp_path / "model.pth"))
    torch.save({**saved, "model_name": "SuDORMRFNet"}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="Asteroid's model 'SuDORMRFNet' is not built here, only ConvTasNet, DPRNN"):
        import_checkpoint(tmp_path / "model.pth")


def espnet_zip(path, config=None, **members):
    """A model as ESPnet packs it, its configuration changed by `config`."""
    state = {f"separator.{key}": value for key, value in published("espnet_tf_gridnet_v1").items()}
    conf = {"n_srcs": 3, "n_fft": 16, "stride": 8, "n_layers": 2, "lstm_hidden_units": 5, "attn_n_head": 2}
    conf |= {"attn_approx_qk_dim": 20, "emb_dim": 6, "emb_ks": 4, "emb_hs": 1, "activation": "prelu", "eps": 1e-5}
    whole = {"encoder": "same", "encoder_conf": {}, "decoder": "same", "decoder_conf": {}, "separator": "tfgridnet"}
    whole |= {"separator_conf": conf, "model_conf": {"loss_type": "mask_mse"}, "criterions": [{"name": "si_snr"}]}
    whole |= config or {}
    torch.save(state, path.with_suffix(".pth"))
    with zipfile.ZipFile(path, "w") as archive:
        files = {"files": {"model_file": "exp/enh/1epoch.pth"}, "yaml_files": {"train_config": "exp/enh/config.yaml"}}
        archive.writestr("meta.yaml", yaml.safe_dump(files))
        archive.writestr("exp/enh/config.yaml", yaml.safe_dump(whole))
        archive.write(path.with_suffix(".pth"), "exp/enh/1epoch.pth")
        archive.writestr("exp/enh/images/loss.png", b"picture")
        for name, content in members.items():
            archive.writestr(name, content, zipfile.ZIP_DEFLATED)
    return path


def test_an_espnet_zip(tmp_path):
    name, params, rate, weights, told, *_ = import_checkpoint(espnet_zip(tmp_path / "model.zip"))
    assert (name, rate) == ("tf_gridnet", 8000) and "tfgridnet, sample rate not stated: 8000 Hz taken" in told
    assert complete(name, params) == complete(name, CASES["espnet_tf_gridnet_v1"][2])
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    assert import_checkpoint(tmp_path / "unpacked", sample_rate=16000)[2] == 16000


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"separator": "conformer"}, "separator 'conformer' is not built here, only tfgridnet"),
        ({"encoder": "stft"}, "encoder 'stft' is not built here with this separator, only 'same'"),
        ({"model_conf": {"always_forward_in_48k": True}}, "always_forward_in_48k True is not built here"),
        ({"model_conf": {"extra": 1}}, "model_conf: unknown option 'extra'"),
        ({"separator_conf": {"n_imics": 2}}, "n_imics 2 is not built here"),
        ({"separator_conf": {"window": "hamming"}}, "window 'hamming' is not built here"),
    ],
)
def test_espnet_options_that_we_do_not_have(tmp_path, config, told):
    with pytest.raises(ValueError, match=told):
        import_checkpoint(espnet_zip(tmp_path / "model.zip", config))


@pytest.mark.parametrize(
    ("member", "content", "told"),
    [
        ("../outside.yaml", "x", r"refused, '\.\./outside\.yaml' would lead out"),
        ("/etc/outside.yaml", "x", "would lead out"),
        ("bomb.pth", bytes(2 * 2**20), "would grow a hundredfold"),
        ("meta.yaml/a.yaml", "x", r"model\.zip: 'meta\.yaml/a\.yaml' cannot be unpacked"),  # a file as a folder, too
    ],
)
def test_archives_that_are_refused(tmp_path, member, content, told):
    (tmp_path / "inside").mkdir()
    path = espnet_zip(tmp_path / "inside" / "model.zip", **{member: content})
    with pytest.raises(ValueError, match=told):
        import_checkpoint(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["inside"]


def test_damaged_archives(tmp_path):
    """A flipped byte of what is packed, and of the table that says where it is."""
    path = espnet_zip(tmp_path / "model.zip", **{"exp/enh/notes.yaml": os.urandom(3000).hex()})
    data = path.read_bytes()
    begin = data.index(b"exp/enh/notes.yaml") + len("exp/enh/notes.yaml")
    for place in (*range(begin, begin + 400, 10), *range(len(data) - 120, len(data), 3)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x80]) + data[place + 1 :])
        try:
            import_checkpoint(path)
        except (ValueError, FileNotFoundError) as error:  # not found is what the table names otherwise
            assert str(error).startswith(str(path))


def test_spmamba_takes_its_options_from_the_conf_beside_it(tmp_path):
    state = {f"audio_model.{key}": value for key, value in published("look2hear_spmamba").items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "epoch=3.ckpt")
    with pytest.raises(ValueError, match=r"--config with the conf\.yml that it was trained with"):
        import_checkpoint(tmp_path / "epoch=3.ckpt")
    config = {"input_dim": 64, "n_srcs": 3, "n_fft": 16, "stride": 8, "window": "hann", "n_layers": 2, "emb_dim": 6}
    config |= {"lstm_hidden_units": 256, "attn_n_head": 2, "attn_approx_qk_dim": 20, "emb_ks": 8, "emb_hs": 1}
    conf = {"audionet": {"audionet_name": "SPMamba", "audionet_config": config}}
    conf["datamodule"] = {"data_config": {"sample_rate": 16000}}
    (tmp_path / "conf.yml").write_text(yaml.safe_dump(conf))
    name, params, rate, *_ = import_checkpoint(tmp_path / "epoch=3.ckpt")
    assert rate == 16000 and complete(name, params) == complete("spmamba", GRIDNET)


def test_mossformer2_of_clearervoice(tmp_path):
    """A text that names the file; names begin with `module.` after a parallel training."""
    state = {f"module.{key}": value for key, value in published("mossformer2").items()}
    torch.save({"model": state, "step": 5}, tmp_path / "last_best_checkpoint.pt")
    (tmp_path / "last_best_checkpoint").write_text("last_best_checkpoint.pt\n")
    with pytest.raises(ValueError, match="sample rate is not in it; --sample_rate"):
        import_checkpoint(tmp_path)
    name, params, *_ = import_checkpoint(tmp_path, sample_rate=16000)
    assert complete(name, params) == complete("mossformer2", MOSSFORMER2)
    (tmp_path / "last_best_checkpoint").write_text("../other.pt\n")
    with pytest.raises(ValueError, match=r"a file name beside it expected, got '\.\./other\.pt'"):
        import_checkpoint(tmp_path)


def test_the_rate_of_a_public_checkpoint_that_does_not_say_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--alibabasglab--MossFormer2_SS_16K" / "snapshots" / "1"
    folder.mkdir(parents=True)
    written("mossformer2", folder / "last_best_checkpoint.pt")
    (folder / "last_best_checkpoint").write_text("last_best_checkpoint.pt")
    _, _, rate, _, told, *_ = import_checkpoint("mossformer2_ss_16k")
    assert rate == 16000 and told.endswith(", alibabasglab/MossFormer2_SS_16K (Apache-2.0)")


def test_mossformer2_in_older_revisions(tmp_path):
    """Three files instead of model.safetensors; the options under `config`."""
    folder = written("mossformer2_hf", tmp_path / "mossformer2")
    state = read_back("mossformer2_hf", folder).tensors
    (folder / "model.safetensors").unlink()
    for part in ("encoder", "masknet", "decoder"):
        held = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        torch.save(held, folder / f"{part}.ckpt")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"config": config}))
    assert import_checkpoint(folder)[1]["masking"] is False
    (folder / "config.json").write_text(json.dumps({**config, "masknet_norm": "gln"}))
    with pytest.raises(ValueError, match="masknet_norm 'gln' is not built here"):
        import_checkpoint(folder)


def test_old_sepformers_of_polsess(tmp_path):
    """Other names, no positions, and their configuration does not say so."""
    saved = torch.load(written("polsess_sepformer", tmp_path / "a.pt"))
    saved["model_state_dict"] = {
        key.replace("_mdl.mdl.", "_mdl.transformer."): value for key, value in saved["model_state_dict"].items()
    }
    del saved["config"]["model"]["sepformer"]["use_positional_encoding"]
    torch.save(saved, tmp_path / "a.pt")
    assert import_checkpoint(tmp_path / "a.pt")[1]["use_positions"] is False
    torch.save({**saved, "config": {"model": {"model_type": "dpmamba", "dpmamba": {}}}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="'dpmamba' is not built here, only convtasnet"):
        import_checkpoint(tmp_path / "a.pt")


def test_sepmamba_takes_strides_from_its_conf(tmp_path):
    path = written("sepmamba", tmp_path / "last.pth")
    name, params, _, _, told, *_ = import_checkpoint(path)
    assert complete(name, params) == complete(name, SEPMAMBA) and "strides [2, 2, 2] assumed" in told
    conf = {"_target_": "src.models.SepMamba.SepMamba", "dim": 8, "kernel_sizes": [8, 6, 4], "strides": [4, 2, 2]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {**conf, "num_blocks": 2, "act_fn": "relu"}}))
    _, params, _, _, told, *_ = import_checkpoint(path, config=tmp_path / "config.yaml")
    assert params["strides"] == [4, 2, 2] and told == "SepMamba"


# ------------------------------------------------------------------------------------------------ what does not fit


@pytest.mark.parametrize("holder", [None, "model", "state_dict", "model_state_dict"])
def test_tensors_alone_need_a_preset(tmp_path, holder):
    network = build_model("conv_tasnet", {}, 8000, task=None)
    state = to_published(network.state_dict(), IMPORTERS["asteroid"].names_of("conv_tasnet", {}))
    torch.save({holder: state, "epoch": 1} if holder else state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="without model_name and model_args; --preset NAME"):
        import_checkpoint(tmp_path / "a.pth")
    name, params, rate, weights, *_ = import_checkpoint(tmp_path / "a.pth", preset="conv_tasnet")
    assert (name, params, rate) == ("conv_tasnet", {}, 8000)
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


def changed(key, value):
    state = published("asteroid_dptnet")
    state.pop(key, None)
    return {**state, **({} if value is None else {key: value})}


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("masker.in_norm.beta", None, r"1 missing: masker\.in_norm\.beta"),
        ("masker.in_norm.betta", torch.zeros(8), r"1 unexpected: masker\.in_norm\.betta"),
        ("masker.in_norm.beta", torch.zeros(9), r"1 of another shape: masker\.in_norm\.beta \[9\] for \[8\]"),
        ("masker.in_norm.beta", torch.zeros(8).long(), "1 of whole numbers in place of others"),
        ("masker.in_norm.beta", torch.full((8,), torch.nan), r"not finite, in masker\.in_norm\.beta"),
    ],
)
def test_every_tensor_must_fit(tmp_path, capsys, key, value, told):
    path = written("asteroid_dptnet", tmp_path / "a.pth", changed(key, value))
    with pytest.raises(ValueError, match=told):
        import_checkpoint(path)
    assert main(["convert", str(path), "-o", str(tmp_path / "packed")]) == 4
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "packed").exists()


def test_stored_tables_must_hold_what_we_compute(tmp_path):
    key = "masknet.dual_mdl.1.inter_mdl.pos_enc.pe"
    tensors = published("speechbrain_sepformer")
    shorter = {**tensors, key: tensors[key][:, :100]}
    assert import_checkpoint(written("speechbrain_sepformer", tmp_path / "shorter", shorter))
    other = {**tensors, key: tensors[key] + 0.01}
    with pytest.raises(ValueError, match=rf"'{key}' differs from the values"):
        import_checkpoint(written("speechbrain_sepformer", tmp_path / "other", other))


@pytest.mark.parametrize("case", ["asteroid_dptnet", "mossformer2_hf", "speechbrain_sepformer", "espnet_dptnet"])
def test_a_truncated_file(tmp_path, case):
    path = written(case, tmp_path / "model")
    weights = path if path.is_file() else max(path.iterdir(), key=lambda file: file.stat().st_size)
    weights.write_bytes(weights.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cut short|damaged|corrupted"):
        import_checkpoint(path)


class Attack:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("where", ["file", "folder", "zip"])
def test_code_is_refused_and_not_run(tmp_path, where, sepformer):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": {"encoder.filterbank._filters": Attack(tmp_path / "ran")}}, path)
    if where == "folder":
        path.rename(sepformer / "encoder.ckpt")
        path = sepformer
    elif where == "zip":
        espnet_zip(tmp_path / "model.zip", **{"exp/enh/2epoch.pth": path.read_bytes()})
        path = tmp_path / "model.zip"
        meta = yaml.safe_dump({"files": {"a": "exp/enh/2epoch.pth"}, "yaml_files": {"b": "exp/enh/config.yaml"}})
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new.zip", "w") as new:
            for name in old.namelist():
                new.writestr(name, meta if name == "meta.yaml" else old.read(name))
        path = tmp_path / "new.zip"
    with pytest.raises(ValueError, match="refused, it asks to run code"):
        import_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_yaml_tags_are_text():
    assert read_tagged_yaml("a: !ref <b>\nb:\nc: !ref <a>\n", "a.yaml") == {"a": None, "b": None, "c": None}
    text = "a: 5\nb: !ref <a>\nc: !new:os.mkdir [ran]\nd: !ref x/<a>/y\ne: !apply:os.mkdir\n    path: ran\n"
    values = read_tagged_yaml(text, "a.yaml")
    assert (values["b"], values["d"]) == (5, "x/5/y")
    assert (values["c"].tag, values["c"].value) == ("new:os.mkdir", ["ran"])
    assert (values["e"].tag, values["e"].value) == ("apply:os.mkdir", {"path": "ran"})
    assert not os.path.exists("ran")
    many = "a: &a [1]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{f'*{chr(97 + i)}, ' * 9}]\n" for i in range(20))
    assert len(read_tagged_yaml(many, "a.yaml")) == 21  # 9 to the power of 20, written out
    with pytest.raises(ValueError, match=r"a\.yaml: not YAML"):
        read_tagged_yaml("a: [", "a.yaml")


@pytest.mark.parametrize(
    "text",
    ["a: 2024-13-45", "a: !!int x", "a: !!bool x", "a: !!timestamp x", "? !x {a: b}\n: c", "a: 0x_"]
    + ["".join(f"a{number}: !ref <a{number + 1}>\n" for number in range(3000)) + "a3000: 1"],
    ids=lambda text: text[:12],
)
def test_yaml_of_values_that_are_none(text):
    with pytest.raises(ValueError, match=r"^a\.yaml: "):
        read_tagged_yaml(text, "a.yaml")


def test_texts_of_texts_do_not_grow_without_end():
    text = f"a0: {'x' * 900}\n" + "".join(f"a{number + 1}: !ref <a{number}> <a{number}>\n" for number in range(40))
    values = read_tagged_yaml(text, "a.yaml")
    assert len(values["a1"]) == 1801 and max(map(len, values.values())) == 1801


# ------------------------------------------------------------------------------------------------ writing


@pytest.mark.parametrize(
    ("layout", "name", "params", "told"),
    [
        ("asteroid", "sepformer", SEPFORMER, "it has no sepformer, only conv_tasnet, .*; try polsess, speechbrain"),
        ("asteroid", "conv_tasnet", {**CONV_TASNET, "bias": False}, "no place|cannot say bias: False"),
        ("asteroid", "conv_tasnet", {**CONV_TASNET, "late": True}, "cannot say late: True"),
        ("espnet", "dptnet", DPTNET, "cannot say norm_eps: 1e-08"),
        ("speechbrain", "conv_tasnet", {**SPEECHBRAIN_TASNET, "norm": "cLN"}, "has no norm 'cLN'"),
        ("sepmamba", "sepmamba", {**SEPMAMBA, "strides": [4, 2, 2]}, "cannot say strides"),
        ("asteriod", "dptnet", DPTNET, "no such layout; known: hifi_tse"),
    ],
)
def test_networks_that_a_layout_does_not_hold(tmp_path, layout, name, params, told):
    weights = build_model(name, params, 8000, task=None).state_dict()
    with pytest.raises(ValueError, match=told):
        export_checkpoint(layout, tmp_path / "a", name, params, 8000, weights)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path, capsys):
    weights = build_model("dptnet", DPTNET, 8000, task=None).state_dict()
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        export_checkpoint("asteroid", tmp_path / "a", "dptnet", DPTNET, 8000, weights)
    assert (tmp_path / "a").read_text() == "mine"
    assert main(["convert", str(tmp_path), "--to", "asteroid", "--preset", "dptnet", "-o", "b"]) == 4
    assert "--preset: goes with reading" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- MDX23C

DRUMS = """
audio: {chunk_size: 496, dim_f: 32, dim_t: 32, hop_length: 16, n_fft: 64, num_channels: 2, sample_rate: 44100,
  min_mean_abs: 0.0}
model: {act: gelu, bottleneck_factor: 2, growth: 2, norm: InstanceNorm, num_blocks_per_scale: 2, num_channels: 4,
  num_scales: 2, num_subbands: 2, scale: [2, 2]}
training: {instruments: [kick, snare, toms], target_instrument: null, lr: 1.0, optimizer: prodigy}
loss_multistft: {fft_sizes: !!python/tuple [1024, 2048]}
inference: {batch_size: 2, dim_t: 16, num_overlap: 4, extension: flac}
"""


@pytest.fixture
def drumsep(tmp_path):
    """A .ckpt of MDX23C with its YAML beside it, as they are published."""
    torch.save({"state": published("mdx23c")}, tmp_path / "drumsep.ckpt")
    (tmp_path / "drumsep.yaml").write_text(DRUMS)
    return tmp_path / "drumsep.ckpt"


def test_mdx23c_brings_sources_chunk_and_overlap(drumsep):
    found = import_checkpoint(drumsep)
    assert (found.name, found.sample_rate) == ("tfc_tdf", 44100)
    settings = found.conf.inference
    assert settings.source_names == ("kick", "snare", "toms")
    assert (round(settings.chunk_s * 44100), settings.overlap_count) == (496, 4)
    assert not settings.stitch and settings.level == "model"
    assert "496 samples, 0.01 s, by audio.chunk_size; inference.dim_t would be 0.01 s" in found.told


def test_mdx23c_without_settings_of_inference(drumsep):
    section = DRUMS[DRUMS.index("inference:") :]
    drumsep.with_suffix(".yaml").write_text(DRUMS.replace(section, "inference:\n"))
    assert import_checkpoint(drumsep).conf.inference.overlap_count == 4


def test_tensors_that_hold_no_numbers_in_a_row(drumsep):
    tensors = published("mdx23c")
    for odd in (tensors["final_conv.2.weight"].to_sparse(), tensors["final_conv.2.weight"].to("meta")):
        torch.save({**tensors, "final_conv.2.weight": odd}, drumsep)
        with pytest.raises(ValueError, match=r"drumsep\.ckpt: an option or a tensor in it"):
            import_checkpoint(drumsep)


def test_mdx23c_with_one_target_has_one_source(drumsep):
    tensors = published("mdx23c")
    tensors["final_conv.2.weight"] = tensors["final_conv.2.weight"][: 4 * 2]
    torch.save(tensors, drumsep)
    text = DRUMS.replace("target_instrument: null", "target_instrument: snare")
    drumsep.with_suffix(".yaml").write_text(text)
    found = import_checkpoint(drumsep)
    assert found.params["num_sources"] == 1 and found.conf.inference.source_names == ("snare",)


@pytest.mark.parametrize(
    "old, new, told",
    [
        ("growth: 2, ", "", "section `model`: the option 'growth' is missing"),
        ("growth: 2", "growht: 2", "unknown option 'growht', the nearest is 'growth'"),
        ("norm: InstanceNorm", "norm: BatchNorm", "norm 'BatchNorm' is not built here, only 'InstanceNorm'"),
        ("hop_length: 16, ", "", "audio.hop_length is missing"),
        ("instruments: [kick, snare, toms]", "instruments: []", "training.instruments has no names"),
        ("model:", "modell:", "the section `model` is missing; is it the YAML of this checkpoint"),
        ("growth: 2", "growth: 4", "tensors do not fit"),
        ("num_scales: 2", "num_scales: 8", "dim_f 32 must be a multiple"),
        ("chunk_size: 496", "chunk_size: !!python/object/apply:os.mkdir [ran]", "refused"),
        ("chunk_size: 496", "chunk_size: [496]", r"drumsep\.ckpt: an option or a tensor in it, or in its config"),
        ("growth: 2", "growth: '2'", "model tfc_tdf: unsupported operand"),
        ("growth: 2", "growth: 100000000", "tensors do not fit"),  # of which there is no memory for one
        ("[kick, snare, toms]", "kick", "training.instruments has no names"),
    ],
)  # fmt: skip
def test_a_wrong_yaml_of_mdx23c(drumsep, old, new, told):
    assert old in DRUMS
    drumsep.with_suffix(".yaml").write_text(DRUMS.replace(old, new))
    with pytest.raises(ValueError, match=told):
        import_checkpoint(drumsep)


def test_mdx23c_without_its_yaml(drumsep):
    drumsep.with_suffix(".yaml").unlink()
    with pytest.raises(ValueError, match="--config with the YAML that was published with it"):
        import_checkpoint(drumsep)
