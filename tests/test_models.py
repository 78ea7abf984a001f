"""HiFi-TSE: the contract of an extractor, at sizes that are awkward."""

import copy

import pytest
import torch

from tests import tiny
from tse_lib.models import build_model
from tse_lib.models.hifi_tse import mel_bands
from tse_lib.nn.conditioning import drop_condition


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.manual_seed(seed))


@pytest.fixture(params=["v1", "v2", "all"])
def model(request):
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


@pytest.mark.parametrize("levels", [False, True])
def test_a_gradient_reaches_every_parameter(levels):
    model = tiny.make_model(levels=levels, num_blocks=2, reinject_at=[1]).train()
    estimate = model(noise(2, 1, 400), model.encode(noise(2, 2, 300, seed=1), torch.tensor([[300, 200], [300, 0]])))
    (estimate * noise(2, 1, 1, 400, seed=2)).sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("normalize", [False, True])
def test_silence_has_a_finite_gradient(normalize):
    model = tiny.make_model(normalize=normalize, levels=True).train()
    model(torch.zeros(1, 1, 400), model.encode(torch.zeros(1, 1, 300))).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_gradient_checkpointing_changes_nothing():
    gradients = []
    for recompute in (False, True):
        model = tiny.make_model(gradient_checkpointing=recompute, num_blocks=2, reinject_at=[0, 1]).train()
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
