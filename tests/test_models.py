"""HiFi-TSE: the contract of an extractor, at sizes that are awkward."""

import copy
import re
from pathlib import Path

import pytest
import torch

from tests import tiny
from tse_lib.config import load_config
from tse_lib.models import build_model
from tse_lib.models.hifi_tse import mel_bands
from tse_lib.models.presets import HIFI_TSE_V1, HIFI_TSE_V2
from tse_lib.nn.conditioning import VectorFilm, drop_condition
from tse_lib.nn.grid_block import GridBlock


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.manual_seed(seed))


CONFS = sorted(Path(__file__).parent.parent.glob("egs/hifi48k/tse1/conf/v3_*.yaml"))
V3 = {"film": False, "adaln": True, "enroll_scales": [1, 2, 4], "time_rnn": "mamba"}


def make_v3(**options):
    """With what is planned after v2; the talker's part in the norms is drawn large enough to matter."""
    model = tiny.make_model(**{**V3, **options})
    for module in model.modules():
        if isinstance(module, VectorFilm):
            torch.nn.init.normal_(module.linear.weight, std=0.1)
    return model


@pytest.fixture(params=["v1", "v2", "v3", "all"])
def model(request):
    if request.param == "v3":
        return make_v3().eval()
    options = {
        "v1": {"film": False, "normalize": False},
        "v2": {"film": True, "normalize": False, "num_blocks": 2, "reinject_at": [0, 1]},
        "all": {"normalize": True, "levels": True, "attention": False, "win_length": 48, "hop_length": 24},
    }
    return tiny.make_model(**options[request.param]).eval()


def run(model, mixture, enroll, lengths=None):
    with torch.no_grad():
        return model(mixture, model.encode(enroll, lengths))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 20, 32, 33, 63, 64, 65, 500, 1001])
def test_shapes(model, batch, channels, size):
    estimate = run(model, noise(batch, channels, size), noise(batch, 1, 300))
    assert estimate.shape == (batch, 1, channels, size)
    assert estimate.isfinite().all() and estimate.dtype == torch.float32


@pytest.mark.parametrize("size", [1, 20, 40, 64, 300])
def test_short_enrolments(model, size):
    assert run(model, noise(1, 1, 400), noise(1, 1, size)).isfinite().all()


def test_channels_are_extracted_one_by_one(model):
    mixture, enroll = noise(2, 3, 400), noise(2, 1, 300, seed=1)
    together = run(model, mixture, enroll)
    for channel in range(3):
        alone = run(model, mixture[:, channel : channel + 1], enroll)
        torch.testing.assert_close(together[:, :, channel : channel + 1], alone, rtol=1e-4, atol=1e-6)


def test_items_of_a_batch_do_not_mix(model):
    mixture, enroll = noise(3, 1, 400), noise(3, 2, 300, seed=1)
    together = run(model, mixture, enroll)
    alone = torch.cat([run(model, mixture[i : i + 1], enroll[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_the_enrolment_matters(model):
    mixture = noise(1, 1, 400)
    one, other = (run(model, mixture, noise(1, 1, 300, seed=seed)) for seed in (1, 2))
    assert (one - other).abs().max() > 1e-3 * one.abs().max()


# ---------------------------------------------------------------------------------------- enrolments


@pytest.mark.parametrize("own", [1, 30, 64, 150, 299])
def test_padding_of_an_enrolment_changes_nothing(model, own):
    mixture, enroll = noise(2, 1, 400), noise(2, 1, 300, seed=1)
    enroll[0, 0, own:] = 0
    padded = run(model, mixture, enroll, torch.tensor([[own], [300]]))
    torch.testing.assert_close(padded[:1], run(model, mixture[:1], enroll[:1, :, :own]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(padded[1:], run(model, mixture[1:], enroll[1:]), rtol=1e-4, atol=1e-6)


def test_what_stands_in_the_padding_changes_nothing(model):
    mixture, enroll, lengths = noise(1, 1, 400), noise(1, 2, 300, seed=1), torch.tensor([[300, 170]])
    clean = run(model, mixture, enroll, lengths)
    enroll[0, 1, 170:] = 9
    torch.testing.assert_close(run(model, mixture, enroll, lengths), clean)


def test_an_enrolment_that_is_not_there_changes_nothing(model):
    mixture, enroll = noise(2, 1, 400), noise(2, 2, 300, seed=1)
    both = run(model, mixture, enroll, torch.tensor([[300, 0], [300, 300]]))
    torch.testing.assert_close(both[:1], run(model, mixture[:1], enroll[:1, :1]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(both[1:], run(model, mixture[1:], enroll[1:]), rtol=1e-4, atol=1e-6)


def test_the_order_of_enrolments_is_the_same_to_attention_and_mean(model):
    mixture, enroll = noise(1, 1, 400), noise(1, 3, 300, seed=1)
    torch.testing.assert_close(
        run(model, mixture, enroll), run(model, mixture, enroll[:, [2, 0, 1]]), rtol=1e-4, atol=1e-6
    )
    one = run(model, mixture, enroll[:, :1])
    assert (run(model, mixture, enroll) - one).abs().max() > 1e-4 * one.abs().max()


def test_a_condition_is_plain_tensors_of_the_batch(model):
    condition = model.encode(noise(2, 3, 300), torch.tensor([[300, 200, 0], [10, 300, 300]]))
    assert condition["valid"].dtype == torch.bool and condition["valid"].shape == condition["frames"].shape[:2]
    assert len(condition["frames"]) == 2


# ---------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("options", [{}, {"levels": True}, V3], ids=["plain", "levels", "v3"])
def test_a_gradient_reaches_every_parameter(options):
    model = tiny.make_model(**options, num_blocks=2, reinject_at=[1]).train()
    estimate = model(noise(2, 1, 400), model.encode(noise(2, 2, 300, seed=1), torch.tensor([[300, 200], [300, 0]])))
    (estimate * noise(2, 1, 1, 400, seed=2)).sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("options", [{"normalize": False}, {"normalize": True}, V3], ids=["plain", "normalize", "v3"])
def test_silence_has_a_finite_gradient(options):
    model = tiny.make_model(**options, levels=True).train()
    model(torch.zeros(1, 1, 400), model.encode(torch.zeros(1, 1, 300))).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("make", [tiny.make_model, make_v3])
def test_gradient_checkpointing_changes_nothing(make):
    gradients = []
    for recompute in (False, True):
        model = make(gradient_checkpointing=recompute, num_blocks=2, reinject_at=[0, 1]).train()
        model(noise(2, 1, 400), model.encode(noise(2, 1, 300, seed=1))).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_the_untrained_output_is_the_mixture():
    model = build_model("hifi_tse", tiny.MODEL, tiny.RATE).eval()
    mixture = noise(1, 1, 400)
    assert (run(model, mixture, noise(1, 1, 300, seed=1))[:, 0] - mixture).abs().max() < 0.01 * mixture.abs().max()


def test_a_dropped_condition_is_gone_for_its_whole_item():
    torch.manual_seed(0)
    valid = torch.ones(200, 3, dtype=torch.bool)
    told = drop_condition({"frames": torch.ones(200, 3, 2, 4), "valid": valid, "voice": torch.ones(200, 5)}, 0.3)
    assert {float(item.mean()) for item in told["frames"]} == {0.0, 1.0}
    assert 0.6 < told["frames"].mean() < 0.8
    assert torch.equal(told["frames"][:, 0, 0, 0], told["voice"][:, 0]) and told["valid"].all()
    model = tiny.make_model(condition_dropout=1.0)
    mixture, enroll = noise(1, 1, 400), noise(1, 1, 300, seed=1)
    with torch.no_grad():
        dropped = [model.train()(mixture, model.encode(scale * enroll)) for scale in (1, -0.2)]
    assert torch.equal(*dropped)
    assert not torch.equal(run(model.eval(), mixture, enroll), dropped[0])


def test_state_dict_round_trip(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(model.state_dict())
    mixture, enroll = noise(1, 1, 400), noise(1, 1, 300, seed=1)
    assert torch.equal(run(model, mixture, enroll), run(other, mixture, enroll))
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}  # no buffer is stored


# ---------------------------------------------------------------------------------------- what is planned after v2


@torch.no_grad()
def test_scales_add_means_of_each_enrolments_frames():
    enroll, lengths = noise(1, 2, 320, seed=1), torch.tensor([[320, 190]])  # 11 and 6 frames
    whole = tiny.make_model().eval().encode(enroll, lengths)["frames"]
    frames = tiny.make_model(enroll_scales=[1, 4]).eval().encode(enroll, lengths)["frames"]
    assert whole.shape == (1, 11 + 6, 4, 8) and frames.shape == (1, 11 + 3 + 6 + 2, 4, 8)
    torch.testing.assert_close(frames[:, :11], whole[:, :11])
    torch.testing.assert_close(frames[:, 14:20], whole[:, 11:17])
    for first, last, mean in [(0, 4, 11), (4, 8, 12), (8, 11, 13), (11, 15, 20), (15, 17, 21)]:
        torch.testing.assert_close(whole[:, first:last].mean(1), frames[:, mean])


@torch.no_grad()
def test_adaptive_norms_begin_as_plain_ones_and_then_follow_the_talker_band_by_band():
    torch.manual_seed(0)
    adaptive, plain = GridBlock(8, 8, 2, adaln=True), GridBlock(8, 8, 2)
    plain.load_state_dict(adaptive.state_dict(), strict=False)
    x, talker = noise(2, 5, 4, 8), noise(2, 4, 8, seed=1)
    torch.testing.assert_close(adaptive(x, talker), plain(x))
    adaptive.attn_norm.linear.weight.normal_()
    before, other = adaptive(x, talker), talker.clone()
    other[0, 1] += 1
    changed = (adaptive(x, other) - before).abs().amax((1, 3))  # (B, N)
    assert changed[0, 1] > 0.1 and changed.count_nonzero() == 1


@pytest.mark.parametrize("time_rnn", ["lstm", "mamba"])
def test_a_block_looks_along_time_in_both_directions(time_rnn):
    torch.manual_seed(0)
    block, x = GridBlock(8, 8, 2, attention=False, time_rnn=time_rnn), noise(1, 6, 4, 8).requires_grad_()
    for frame in (0, 5):
        (gradient,) = torch.autograd.grad(block(x)[0, frame].square().sum(), x)
        assert gradient[0].abs().amax((1, 2)).min() > 0


@pytest.mark.parametrize("path", CONFS, ids=lambda path: path.stem)
def test_a_conf_tells_its_networks_size_and_changes_what_it_says(path):
    conf, v2 = load_config(path), load_config(path.with_name("v2.yaml"))
    model = build_model(conf.model.name, conf.model.params, conf.sample_rate)
    told = re.search("([0-9,]+) parameters", path.read_text())
    assert sum(parameter.numel() for parameter in model.parameters()) == int(told[1].replace(",", ""))
    assert conf.train.batch_size * conf.train.accumulate == v2.train.batch_size * v2.train.accumulate
    changed = {key for key, value in conf.model.params.items() if value != v2.model.params.get(key)}
    if conf.simulation != v2.simulation:
        changed.add("segment_s")
    assert (
        changed
        == {
            "v3_adaln": {"film", "adaln"},
            "v3_multiscale": {"enroll_scales"},
            "v3_mamba": {"time_rnn"},
            "v3_large": {"lstm_hidden", "num_blocks", "reinject_at"},
            "v3_long": {"segment_s"},
        }[path.stem]
    )
    assert (conf.loss, conf.curriculum) == (v2.loss, v2.curriculum)


@pytest.mark.parametrize(
    ("name", "published"),
    [("v1", HIFI_TSE_V1), ("v1_gan", HIFI_TSE_V1), ("v2", HIFI_TSE_V2), ("v2_gan", HIFI_TSE_V2)],
)
def test_confs_of_published_networks_have_their_options(name, published):
    params = load_config(CONFS[0].with_name(f"{name}.yaml")).model.params
    training = ("condition_dropout", "gradient_checkpointing")
    assert {key: value for key, value in params.items() if key not in training} == published


@pytest.mark.parametrize(
    ("options", "parameters"),
    [({"lstm_hidden": 384}, 21_640_172), ({"num_blocks": 8, "reinject_at": list(range(8))}, 15_476_204)],
)
def test_sizes_beside_the_large_one(options, parameters):
    model = build_model("hifi_tse", {**HIFI_TSE_V2, **options}, 48000)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


# ---------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize("gain", [0.01, 8.0])
def test_normalize_makes_the_output_follow_the_mixtures_gain(gain):
    model = tiny.make_model(normalize=True, levels=True).eval()
    mixture, enroll = noise(2, 1, 400), noise(2, 1, 300, seed=1)
    estimate = run(model, mixture, enroll)
    torch.testing.assert_close(run(model, gain * mixture, enroll), gain * estimate, rtol=1e-4, atol=1e-6 * gain)
    torch.testing.assert_close(run(model, mixture, gain * enroll), estimate, rtol=1e-4, atol=1e-6)


def test_without_normalize_levels_matter():
    model = tiny.make_model(normalize=False).eval()
    mixture, enroll = noise(1, 1, 400), noise(1, 1, 300, seed=1)
    estimate = run(model, mixture, enroll)
    assert (run(model, 1e-3 * mixture, enroll) * 1e3 - estimate).abs().max() > 0.01 * estimate.abs().max()


# ---------------------------------------------------------------------------------------- bands


@pytest.mark.parametrize(
    ("num_bands", "n_fft", "rate"),
    [(1, 64, 8000), (16, 64, 8000), (18, 256, 8000), (53, 2048, 48000), (30, 512, 16000)],
)
def test_mel_bands_cover_every_bin_once(num_bands, n_fft, rate):
    bands = mel_bands(num_bands, n_fft, rate)
    assert [number for first, last in bands for number in range(first, last + 1)] == list(range(n_fft // 2 + 1))
    widths = [last - first + 1 for first, last in bands]
    assert len(bands) == num_bands and min(widths) >= 2
    assert widths[-1] >= widths[0]


@pytest.mark.parametrize("num_bands", [0, -1, 17])
def test_mel_bands_that_do_not_fit(num_bands):
    with pytest.raises(ValueError, match="do not fit into 33 bins; at most 16"):
        mel_bands(num_bands, 64, 8000)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"bands": [[0, 31]]}, r"must cover the bins 0 to 32 exactly; wrong at \[32\]"),
        ({"bands": [[0, 10], [12, 32]]}, r"wrong at \[11\]"),
        ({"bands": [[0, 33]]}, r"wrong at \[33\]"),
        ({"reinject_at": [0, 5]}, r"reinject_at: \[5\] name no block; there are 0 to 0"),
        ({"feature_dim": 9}, "feature_dim 9 must be a multiple of num_heads 2"),
        ({"hop_length": 65}, "0 < hop_length 65 "),
        ({"hop_length": 0}, "0 < hop_length 0 "),
        ({"win_length": 65}, "win_length 65 <= n_fft 64"),
        ({"enroll_scales": [1, 1]}, r"enroll_scales: different numbers of frames, at least 1, expected, got \[1, 1\]"),
        ({"enroll_scales": []}, r"enroll_scales: .* got \[\]"),
        ({"enroll_scales": [0, 2]}, r"enroll_scales: .* got \[0, 2\]"),
        ({"time_rnn": "gru"}, "time_rnn: 'gru' is none of lstm, mamba"),
        ({"hiden": 3}, "model hifi_tse: unknown option 'hiden'"),
        ({"lstm_hiden": 3}, "did you mean 'lstm_hidden'"),
        ({"sample_rate": 3}, "sample_rate stands once, at the top of the conf"),
    ],
)
def test_options_that_cannot_be(params, told):
    with pytest.raises(ValueError, match=told):
        build_model("hifi_tse", {**tiny.MODEL, **params}, tiny.RATE)


def test_an_option_that_is_missing_and_a_model_that_is_unknown():
    with pytest.raises(ValueError, match="model hifi_tse: .*missing 1 required .*'n_fft'"):
        build_model("hifi_tse", {key: value for key, value in tiny.MODEL.items() if key != "n_fft"}, tiny.RATE)
    with pytest.raises(ValueError, match="unknown model 'hifitse'; known: hifi_tse"):
        build_model("hifitse", {}, tiny.RATE)


def test_a_separator_where_an_extractor_is_wanted():
    told = "model.name: 'conv_tasnet' can separate, not extract; networks that can: hifi_tse"
    with pytest.raises(ValueError, match=told):
        build_model("conv_tasnet", {}, tiny.RATE)
    with pytest.raises(ValueError, match="'hifi_tse' can extract, not separate; networks that can: .*conv_tasnet"):
        build_model("hifi_tse", tiny.MODEL, tiny.RATE, task="separate")
