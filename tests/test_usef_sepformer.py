"""USEF-SepFormer: the contract of an extractor; with `compat` it leaves the end out as the original does."""

import functools

import pytest
import torch

from tests import extractor, separator
from tests.separator import noise
from tse_lib.models.usef_sepformer import USEFSepFormer

SMALL = {
    "num_filters": 8, "fusion_layers": 2, "num_blocks": 1, "intra_layers": 2, "inter_layers": 1, "num_heads": 2,
    "ffn_dim": 12, "chunk_size": 20,
}  # fmt: skip


def maker(**options):
    return functools.partial(USEFSepFormer, **{**SMALL, **options})


@pytest.mark.parametrize("options", [{}, {"norm_first": True, "kernel_size": 10, "stride": 3}])
def test_an_extractor(options):
    extractor.check_all(maker(**options))


@pytest.mark.parametrize("size", [400, 401, 407])
def test_compat_differs_only_where_no_whole_frame_is_filled(size):
    ours, published = separator.build(maker()), separator.build(maker(compat=True))
    mixture, enroll = noise(4, 1, size), noise(4, 1, 307, seed=1)
    whole, cut = extractor.run(ours, mixture, enroll[..., :304]), extractor.run(published, mixture, enroll)
    assert cut.shape == (4, 1, 1, size)
    assert torch.equal(cut[..., :400], extractor.run(ours, mixture[..., :400], enroll[..., :304])[..., :400])
    assert not cut[..., 400:].any() and whole[..., 400:].any() == (size > 400)


def test_the_order_of_an_enrolments_frames_says_nothing():
    """Whole frames in another order, silence between them."""
    model, mixture, parts = separator.build(maker()), noise(1, 1, 300), noise(2, 32, seed=1)
    one, other = torch.zeros(2, 1, 1, 200)
    one[0, 0, 16:48], one[0, 0, 104:136] = parts
    other[0, 0, 104:136], other[0, 0, 16:48] = parts
    torch.testing.assert_close(
        extractor.run(model, mixture, one), extractor.run(model, mixture, other), rtol=1e-4, atol=1e-6
    )


def test_gradient_checkpointing_changes_nothing():
    extractor.check_recomputing(maker(dropout=0.2))


def test_dropout_is_for_training():
    model, mixture = separator.build(maker(dropout=0.3)), noise(1, 1, 200)
    enroll = noise(1, 1, 200, seed=1)
    assert torch.equal(extractor.run(model, mixture, enroll), extractor.run(model, mixture, enroll))
    model.train()
    assert not torch.equal(extractor.run(model, mixture, enroll), extractor.run(model, mixture, enroll))


def test_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="num_filters 8 must be even and a multiple of num_heads 3"):
        maker(num_heads=3)()
