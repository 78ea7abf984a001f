"""SepFormer: the contract of a separator; its positions know no end."""

import functools

import pytest
import torch

from tests import separator
from tse_lib.models.sepformer import SepFormer
from tse_lib.nn.transformer import positions

SMALL = {"num_filters": 8, "num_layers": 2, "num_heads": 2, "ffn_dim": 12, "chunk_size": 20}


def test_a_separator():
    separator.check_all(functools.partial(SepFormer, **SMALL))


def test_gradient_checkpointing_changes_nothing():
    separator.check_recomputing(functools.partial(SepFormer, **SMALL, dropout=0.2))


def test_dropout_is_for_training():
    model, mixture = separator.build(functools.partial(SepFormer, **SMALL), dropout=0.3), separator.noise(1, 1, 200)
    assert torch.equal(model(mixture), model(mixture))
    model.train()
    assert not torch.equal(model(mixture), model(mixture))


@torch.no_grad()
def test_more_chunks_than_the_published_table_has():
    model = separator.build(SepFormer, **{**SMALL, "chunk_size": 2, "num_blocks": 1, "num_layers": 1})
    size = 8 * 2600  # 2600 chunks of a frame and its neighbour
    estimate = model(separator.noise(1, 1, size))
    assert estimate.shape == (1, 2, 1, size) and estimate.isfinite().all()


def test_positions():
    table = positions(3000, 6, torch.zeros(1, dtype=torch.float64))
    assert table.shape == (3000, 6) and table.dtype == torch.float64
    step = torch.tensor(2750.0, dtype=torch.float64)
    torch.testing.assert_close(table[2750, :2], torch.stack((step.sin(), step.cos())), rtol=1e-9, atol=1e-9)
    slow = step * 10000 ** (-4 / 6)
    torch.testing.assert_close(table[2750, 4:], torch.stack((slow.sin(), slow.cos())), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_without_positions_the_order_of_frames_means_nothing():
    x, order = separator.noise(1, 12, 8), torch.randperm(12)
    for use_positions in (True, False):
        transformer = separator.build(SepFormer, **SMALL, use_positions=use_positions).blocks[0].intra
        same = torch.allclose(transformer(x[:, order]), transformer(x)[:, order], atol=1e-5)
        assert same is not use_positions


def test_positions_of_half_precision_are_counted_in_more():
    exact = positions(3000, 6, torch.zeros(1, dtype=torch.float64))
    half = positions(3000, 6, torch.zeros(1, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert (half.double() - exact).abs().max() < 0.01


def test_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="num_filters 8 must be even and a multiple of num_heads 3"):
        SepFormer(**{**SMALL, "num_heads": 3})
