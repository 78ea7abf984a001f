"""Conv-TasNet: the contract of a separator, its norms, and what it hears of the future."""

import functools

import pytest
import torch

from tests import separator
from tse_lib.models.conv_tasnet import ConvTasNet
from tse_lib.nn.tcn import NORMS, CumulativeNorm

SMALL = {"num_filters": 12, "bottleneck_dim": 8, "hidden_dim": 10, "skip_dim": 6, "num_blocks": 3, "num_repeats": 2}
VARIANTS = {
    "paper": {},
    "causal": {"norm": "cLN", "causal": True},
    "speechbrain": {
        "skip_dim": 0, "input_norm": "LN", "causal": True, "late": True, "encoder_relu": True, "mask": "relu",
        "bias": False,
    },
    "reflecting": {"reflect": True},
}  # fmt: skip
DEAD = [f"blocks.5.res_conv.{name}" for name in ("weight", "bias")]  # of the last block, where there are skips


def maker(variant):
    return functools.partial(ConvTasNet, **{**SMALL, **VARIANTS[variant]})


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_separator(variant):
    separator.check_all(maker(variant), [] if variant == "speechbrain" else DEAD)


@pytest.mark.parametrize("norm", ["cLN", "LN"])
@pytest.mark.parametrize("skip_dim", [0, 6])
@torch.no_grad()
def test_the_future_does_not_change_the_past(norm, skip_dim):
    model = separator.build(maker("causal"), norm=norm, skip_dim=skip_dim)
    mixture = separator.noise(1, 1, 800)
    other = mixture.clone()
    other[..., 400:] = 0
    difference = (model(mixture) - model(other)).abs().amax((0, 1, 2))
    assert difference[: 400 - 15].max() == 0  # a sample is in frames that end up to 15 samples after it
    assert difference[400:].max() > 1e-4


@pytest.mark.parametrize("options", [{"norm": "gLN"}, {"causal": False}])
@torch.no_grad()
def test_it_does_where_norm_or_convolutions_see_it(options):
    model = separator.build(maker("causal"), **options)
    mixture = separator.noise(1, 1, 800)
    other = mixture.clone()
    other[..., 400:] = 0
    assert (model(mixture) - model(other))[..., :385].abs().max() > 0


@torch.no_grad()
def test_reflection_or_zeros_at_the_ends():
    """With each frame normalised by itself, the ends alone differ: two repeats of 1 + 2 + 4 frames of 8 samples."""
    zeros, mixture = separator.build(maker("paper"), norm="LN"), separator.noise(1, 1, 800)
    reflecting = separator.build(maker("reflecting"), norm="LN")
    reflecting.load_state_dict(zeros.state_dict())
    difference = (reflecting(mixture) - zeros(mixture)).abs().amax((0, 1, 2))
    reach = 2 * (1 + 2 + 4) * 8 + 8
    assert difference[reach:-reach].max() < 1e-6
    assert difference[:reach].max() > 1e-4 and difference[-reach:].max() > 1e-4


def test_cumulative_norm_of_each_prefix():
    x = separator.noise(2, 5, 30).double() + 3
    norm = CumulativeNorm(5, 1e-8).double()
    whole = torch.nn.GroupNorm(1, 5, 1e-8).double()
    for end in (1, 2, 17, 30):
        torch.testing.assert_close(norm(x)[..., end - 1], whole(x[..., :end])[..., -1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("norm", NORMS)
def test_norms_scale_and_shift_channels(norm):
    layer, x = NORMS[norm](5, 1e-8), separator.noise(2, 5, 30)
    plain = layer(x)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(5.0))
        layer.bias.fill_(2)
    torch.testing.assert_close(layer(x), plain * torch.arange(5.0)[:, None] + 2)


@pytest.mark.parametrize(
    ("options", "told"),
    [({"norm": "gln"}, "norm: 'gln' is none of gLN, cLN, LN"), ({"mask": "tanh"}, "mask: 'tanh' is none of")],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(ValueError, match=told):
        ConvTasNet(**SMALL, **options)
