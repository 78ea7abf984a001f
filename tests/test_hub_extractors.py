"""Published extraction networks: written in their layout and read again, they are the same."""

import pytest
import torch

from tse_lib.hub import IMPORTERS, complete, export_checkpoint, import_checkpoint
from tse_lib.hub.names import to_published
from tse_lib.models import build_model

SPEX_PLUS = {"num_filters": 6, "bottleneck_dim": 8, "hidden_dim": 10, "num_blocks": 3, "num_repeats": 2}
SPEX_PLUS |= {"embedding_dim": 5, "num_speakers": 3, "kernel_sizes": [8, 20, 40], "stride": 4, "compat": True}
X_TF_GRIDNET = {"n_fft": 32, "hop_length": 8, "num_blocks": 2, "emb_dim": 8, "emb_ks": 3, "emb_hs": 2}
X_TF_GRIDNET |= {
    "lstm_hidden": 5,
    "num_heads": 2,
    "qk_dim": 2,
    "unet_depths": [2, 1],
    "num_speakers": 3,
    "compat": True,
}
SPEAKERBEAM = {"num_filters": 12, "bottleneck_dim": 6, "hidden_dim": 10, "skip_dim": 6, "num_blocks": 3}
SPEAKERBEAM |= {"num_repeats": 2, "adapt_at": 2, "embedding_dim": 6}
NETWORKS = {  # case: its layout, ours, its options
    "spex_plus": ("spex_plus", "spex_plus", SPEX_PLUS),
    "spex_plus_frame_norms": ("spex_plus", "spex_plus", {**SPEX_PLUS, "norm": "LN"}),
    "spex_plus_batch_norms": ("spex_plus", "spex_plus", {**SPEX_PLUS, "norm": "BN"}),
    "x_tf_gridnet": ("x_tf_gridnet", "x_tf_gridnet", X_TF_GRIDNET),
    "td_speakerbeam": ("speakerbeam", "td_speakerbeam", SPEAKERBEAM),
    "td_speakerbeam_concat": (
        "speakerbeam",
        "td_speakerbeam",
        {**SPEAKERBEAM, "adaptation": "concat", "norm": "cLN", "causal": True},
    ),
    "td_speakerbeam_no_skips": ("speakerbeam", "td_speakerbeam", {**SPEAKERBEAM, "skip_dim": 0, "encoder_relu": True}),
}


def weights_of(name, params):
    torch.manual_seed(0)
    return build_model(name, params, 8000).state_dict()


@pytest.mark.parametrize("case", NETWORKS)
def test_written_and_read_again(tmp_path, case):
    layout, name, params = NETWORKS[case]
    weights = weights_of(name, params)
    export_checkpoint(layout, tmp_path / "best.pt.tar", name, params, 8000, weights)
    read_name, read_params, rate, read, *_ = import_checkpoint(tmp_path / "best.pt.tar")
    assert (read_name, rate) == (name, 8000)
    assert {key: read_params[key] for key in params} == params
    assert read.keys() == weights.keys() and all(torch.equal(read[key], weights[key]) for key in read)


@pytest.mark.parametrize("case", NETWORKS)
def test_a_tensor_too_many_or_too_few_is_refused(tmp_path, case):
    layout, name, params = NETWORKS[case]
    export_checkpoint(layout, tmp_path / "a.pt", name, params, 8000, weights_of(name, params))
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    held = next(value for value in saved.values() if isinstance(value, dict))
    lost = sorted(held)[0]
    held["more.weight"] = held.pop(lost)
    torch.save(saved, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: tensors do not fit") as error:
        import_checkpoint(tmp_path / "a.pt")
    assert f"missing: {lost}" in str(error.value) and "unexpected: more.weight" in str(error.value)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"causal": True}, "causal with norm_type gLN is not built here"),
        ({"out_chan": 5}, r"out_chan 5 is not built here, only n_filters \(12\)"),
        ({"mask_act": "tanh"}, "mask_act 'tanh' is not built here"),
        ({"i_adapt": 7}, "unknown option 'i_adapt'"),
    ],
)
def test_speakerbeam_options_that_are_not_built(tmp_path, more, told):
    weights = weights_of("td_speakerbeam", SPEAKERBEAM)
    export_checkpoint("speakerbeam", tmp_path / "a.pth", "td_speakerbeam", SPEAKERBEAM, 8000, weights)
    saved = torch.load(tmp_path / "a.pth", weights_only=True)
    saved["model_args"] |= more
    torch.save(saved, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=told):
        import_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(("option", "value"), [("compat", False), ("causal", True)])
def test_what_a_layout_cannot_say(tmp_path, option, value):
    params = {**SPEX_PLUS, option: value}
    with pytest.raises(ValueError, match=f"--to spex_plus: it cannot say {option}: {value}"):
        export_checkpoint("spex_plus", tmp_path / "a.pt", "spex_plus", params, 8000, weights_of("spex_plus", params))
    assert not (tmp_path / "a.pt").exists()


def test_a_configuration_says_what_no_tensor_shows(tmp_path):
    params = {**SPEX_PLUS, "causal": True, "mask": "sigmoid", "norm": "LN"}
    layout, full = IMPORTERS["spex_plus"], complete("spex_plus", params)
    tensors = to_published(weights_of("spex_plus", params), layout.names_of("spex_plus", full))
    layout.write(tmp_path / "a.pt", "spex_plus", full, 8000, tensors)
    (tmp_path / "conf.yml").write_text("{causal: true, non_linear: sigmoid, L: 8, norm: cLN}")
    read = import_checkpoint(tmp_path / "a.pt", config=tmp_path / "conf.yml")[1]
    assert {key: read[key] for key in params} == params
