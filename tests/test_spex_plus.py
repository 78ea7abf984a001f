"""SpEx+: the contract of an extractor; its scales, its talkers, and what `compat` keeps of the original."""

import functools

import pytest
import torch

from tests import extractor, separator
from tests.separator import noise
from tse_lib.models.spex_plus import SpExPlus

SMALL = {"num_filters": 6, "bottleneck_dim": 8, "hidden_dim": 10, "num_blocks": 3, "num_repeats": 2}
SMALL |= {"embedding_dim": 5, "num_speakers": 3}
DEAD = [
    f"{part}.{number}.{name}" for part in ("mask_convs", "decoders") for number in (1, 2) for name in ("weight", "bias")
]
DEAD += [f"classifier.{name}" for name in ("weight", "bias")]  # those train with losses of their own


def maker(**options):
    return functools.partial(SpExPlus, **{**SMALL, **options})


def test_an_extractor():
    extractor.check_all(maker(), DEAD)


@pytest.mark.parametrize(
    "options", [{"norm": "cLN", "causal": True, "mask": "sigmoid"}, {"norm": "BN"}, {"norm": "LN"}]
)
def test_options(options):
    extractor.check_shapes(maker(**options))
    extractor.check_padding_of_an_enrolment(maker(**options))


@torch.no_grad()
def test_causal_hears_no_future_beyond_the_longest_filter():
    model, mixture = separator.build(maker(norm="cLN", causal=True)), noise(1, 1, 900)
    other, enroll = mixture.clone(), noise(1, 1, 300, seed=1)
    other[..., 500:] = 0
    difference = (extractor.run(model, mixture, enroll) - extractor.run(model, other, enroll)).abs().flatten()
    assert difference[: 500 - 159].max() == 0 and difference[500:].max() > 1e-4


def test_scales_and_talkers_train_the_rest():
    model = separator.build(maker()).train()
    condition = model.encode(noise(2, 2, 900, seed=1), torch.tensor([[900, 500], [900, 0]]))
    scales, logits = model.scales(noise(2, 3, 400), condition), model.speaker_logits(condition)
    assert scales.shape == (2, 3, 3, 400) and logits.shape == (2, 3)
    ((scales * noise(2, 3, 3, 400, seed=2)).sum() + logits.square().sum()).backward()
    assert [name for name, p in model.named_parameters() if not p.grad.abs().max() > 0] == []


@torch.no_grad()
def test_the_first_scale_is_the_estimate():
    model, mixture = separator.build(maker()), noise(2, 2, 333)
    condition = model.encode(noise(2, 1, 300, seed=1))
    assert torch.equal(model(mixture, condition), model.scales(mixture, condition)[:, :1])


@torch.no_grad()
def test_batch_norms_are_not_fed_with_padding():
    """Training: the same statistics whatever stands behind an enrolment's end, and however much of it."""
    enroll, found = noise(2, 1, 900, seed=1), []
    for size in (900, 2000):
        model = separator.build(maker()).train()
        padded = torch.nn.functional.pad(enroll, (0, size - 900), value=5.0)
        padded[0, 0, 600:] = 7
        found.append([model.encode(padded, torch.tensor([[600], [900]]))["embedding"], *model.buffers()])
    assert all(torch.allclose(one, other) for one, other in zip(*found, strict=True))


# ------------------------------------------------------------------------------------------------------- the original


@torch.no_grad()
def test_compat_changes_nothing_where_nothing_is_padded():
    ours, published = separator.build(maker()), separator.build(maker(compat=True))
    mixture, enroll = noise(2, 1, 20 + 38 * 10), noise(2, 1, 900, seed=1)
    assert torch.equal(extractor.run(ours, mixture, enroll), extractor.run(published, mixture, enroll))
    assert extractor.run(published, mixture[:1], enroll[:1]).shape == (1, 1, 1, 400)  # fails there: a batch of one


@torch.no_grad()
def test_compat_counts_padding_in_the_sum():
    """There the sum runs over all pooled frames, those of padding too, and is divided by the number of true ones."""
    model = separator.build(maker(compat=True))
    enroll = noise(1, 1, 20 + 10 * (4 * 27 - 1), seed=1)  # four pooled frames
    lengths = torch.tensor([[20 + 10 * (2 * 27 - 1)]])  # of which two are the talker's
    published = model.encode(enroll, lengths)["embedding"]
    torch.testing.assert_close(published, 2 * model.encode(enroll)["embedding"])
    ours = separator.build(maker())
    assert (ours.encode(enroll, lengths)["embedding"] - published).abs().max() > 1e-3


@torch.no_grad()
def test_compat_leaves_the_end_silent():
    ours, published = separator.build(maker()), separator.build(maker(compat=True))
    mixture, enroll = noise(1, 1, 409), noise(1, 1, 900, seed=1)
    assert not extractor.run(published, mixture, enroll)[..., 400:].any()
    assert extractor.run(ours, mixture, enroll)[..., 400:].abs().min() > 0


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("size", [1, 19, 100, 279])
def test_enrolments_of_less_than_a_pooled_frame(compat, size):
    """Two of one length are as one; beside a long one, too."""
    model, mixture = separator.build(maker(compat=compat)), noise(2, 1, 400)
    enroll = noise(2, 1, 900, seed=1)
    assert extractor.run(model, mixture, enroll[..., :size]).isfinite().all()
    assert extractor.run(model, mixture, enroll, [[size], [900]]).isfinite().all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"norm": "gln"}, "norm: 'gln' is none of gLN, cLN, LN, BN"),
        ({"mask": "softmax"}, "mask: 'softmax' is none of sigmoid, relu"),
        ({"kernel_sizes": [20, 10]}, r"kernel_sizes \[20, 10\] must rise"),
        ({"stride": 21}, "stride 21 be at most the first"),
    ],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(ValueError, match=told):
        SpExPlus(**{**SMALL, **options})
