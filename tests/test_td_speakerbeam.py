"""TD-SpeakerBeam: the contract of an extractor, and Conv-TasNet, which is held to Asteroid's numbers, as a measure."""

import functools

import pytest
import torch

from tests import extractor, separator
from tests.separator import noise
from tse_lib.models.conv_tasnet import ConvTasNet
from tse_lib.models.td_speakerbeam import TDSpeakerBeam

SMALL = {"num_filters": 12, "bottleneck_dim": 6, "hidden_dim": 10, "skip_dim": 6, "num_blocks": 3, "num_repeats": 2}
SMALL |= {"adapt_at": 2, "embedding_dim": 6}
PLAIN = {key: value for key, value in SMALL.items() if key not in ("adapt_at", "embedding_dim")}
LAST = {"masker": 5, "speaker_encoder": 2}  # blocks whose residual leads nowhere
DEAD = [f"{part}.blocks.{block}.res_conv.{name}" for part, block in LAST.items() for name in ("weight", "bias")]


def maker(**options):
    return functools.partial(TDSpeakerBeam, **{**SMALL, **options})


def test_an_extractor():
    extractor.check_all(maker(), DEAD)


@pytest.mark.parametrize(
    "options",
    [
        {"adaptation": "muladd", "embedding_dim": 12, "encoder_relu": True},
        {"adaptation": "concat", "embedding_dim": 5, "skip_dim": 0, "mask": "sigmoid"},
        {"adaptation": "concat", "embedding_dim": 7, "norm": "cLN", "causal": True},
    ],
)
def test_options(options):
    extractor.check_shapes(maker(**options))
    extractor.check_padding_of_an_enrolment(maker(**options))
    extractor.check_the_enrolment_matters(maker(**options), 1e-4)
    extractor.check_gradients(maker(**options), [] if options.get("skip_dim") == 0 else DEAD)


def counted(n=512, kernel=16, dim=128, hidden=512, skip=128, blocks=8, repeats=3, adapted=128):
    """Parameters, by the paper's letters: filters, then what stands between them twice."""

    def between(out_dim, number):
        depthwise = hidden * 3 + hidden
        pointwise = (dim * hidden + hidden) + (hidden * dim + dim) + (hidden * skip + skip)
        block = pointwise + depthwise + 2 * (2 * hidden) + 2  # two norms, two PReLUs
        return 2 * n + (n * dim + dim) + number * block + 1 + (skip * out_dim + out_dim)

    return 3 * n * kernel + between(n, blocks * repeats) + between(2 * adapted, blocks)


def test_parameters_of_the_published_conf():
    assert sum(p.numel() for p in TDSpeakerBeam().parameters()) == counted() == 6_704_194


def conv_tasnet_of(model):
    """The Conv-TasNet with the extractor's weights, unadapted."""
    network = ConvTasNet(num_sources=1, mask="relu", **PLAIN).eval()
    names = {"masker.": "", "out_act": "mask_act", "out_conv": "mask_conv"}
    state = {}
    for key, value in model.state_dict().items():
        if key.startswith(("encoder", "decoder", "masker")):
            for theirs, ours in names.items():
                key = key.replace(theirs, ours)
            state[key] = value.clone()
    network.load_state_dict(state)
    return network


@torch.no_grad()
def test_the_embedding_scales_what_one_block_adds_and_skips():
    """So it is a Conv-TasNet whose convolutions behind that block are scaled by the embedding's halves."""
    model, mixture = separator.build(maker()), noise(2, 1, 500)
    embedding = noise(1, 12, seed=3) * 10
    network = conv_tasnet_of(model)
    plain = network(mixture)
    for conv, scale in zip(
        (network.blocks[2].res_conv, network.blocks[2].skip_conv), embedding[0].chunk(2), strict=True
    ):
        conv.weight.mul_(scale[:, None, None])
        conv.bias.mul_(scale)
    estimate = model(mixture, {"embedding": embedding.expand(2, -1)})
    torch.testing.assert_close(estimate, network(mixture))
    assert (estimate - plain).abs().max() > 0.01 * plain.abs().max()
    torch.testing.assert_close(model(mixture, {"embedding": torch.ones(2, 12)}), plain)


@torch.no_grad()
def test_muladd_shifts_too():
    model, mixture = separator.build(maker(adaptation="muladd", embedding_dim=12)), noise(2, 1, 500)
    embedding = noise(1, 24, seed=3) * 10  # scale and shift of what is added, scale and shift of what is skipped
    network = conv_tasnet_of(model)
    parts = embedding[0].chunk(4)
    block = network.blocks[2]
    for conv, scale, shift in ((block.res_conv, *parts[:2]), (block.skip_conv, *parts[2:])):
        conv.weight.mul_(scale[:, None, None])
        conv.bias.mul_(scale).add_(shift)
    torch.testing.assert_close(model(mixture, {"embedding": embedding.expand(2, -1)}), network(mixture))


@torch.no_grad()
def test_the_embedding_is_a_conv_tasnets_mean():
    """Of one repeat, whose last convolution gives the vector in place of masks (as many numbers here as filters)."""
    model, enroll = separator.build(maker()), noise(2, 1, 500, seed=1)
    network = ConvTasNet(num_sources=1, **{**PLAIN, "num_repeats": 1}).eval()
    state = {"encoder.weight": model.enroll_encoder.weight, "decoder.weight": network.decoder.weight}
    for key, value in model.speaker_encoder.state_dict().items():
        state[key.replace("out_", "mask_")] = value
    network.load_state_dict(state)
    scores = []
    network.mask_conv.register_forward_hook(lambda module, inputs, output: scores.append(output))
    network(enroll)
    torch.testing.assert_close(model.encode(enroll)["embedding"], scores[0].mean(-1))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"norm": "gln"}, "norm: 'gln' is none of gLN, cLN, LN, BN"),
        ({"mask": "tanh"}, "mask: 'tanh' is none of"),
        ({"adaptation": "film"}, "adaptation: 'film' is none of mul, muladd, concat"),
        ({"adapt_at": 6}, "adapt_at: there is no block 6, only 0 to 5"),
        ({"skip_dim": 4}, "skip_dim 4 must be bottleneck_dim 6"),
        ({"embedding_dim": 5}, "embedding_dim 5 must be 6 for adaptation mul"),
        ({"adaptation": "muladd"}, "embedding_dim 6 must be 12 for adaptation muladd"),
    ],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(ValueError, match=told):
        TDSpeakerBeam(**{**SMALL, **options})
