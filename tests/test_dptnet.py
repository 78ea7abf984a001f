"""DPTNet: the contract of a separator."""

import functools

import pytest
import torch

from tests import separator
from tse_lib.models.dptnet import DPTNet, Layer

SMALL = {"num_filters": 8, "hidden_dim": 6, "num_heads": 2, "chunk_size": 20, "num_blocks": 2}


@pytest.mark.parametrize("options", [{}, {"kernel_size": 16, "stride": 8}])
def test_a_separator(options):
    separator.check_all(functools.partial(DPTNet, **{**SMALL, **options}))


def test_gradient_checkpointing_changes_nothing():
    separator.check_recomputing(functools.partial(DPTNet, **SMALL, dropout=0.2))


def test_dropout_is_for_training():
    model, mixture = separator.build(functools.partial(DPTNet, **SMALL), dropout=0.3), separator.noise(1, 1, 200)
    assert torch.equal(model(mixture), model(mixture))
    model.train()
    assert not torch.equal(model(mixture), model(mixture))


def test_a_layer_knows_the_order():
    """Without a position coding, it is the LSTM that tells it."""
    torch.manual_seed(0)
    layer, x = Layer(8, 6, 2, 0.0, 1e-8), separator.noise(1, 5, 8)
    assert (layer(x.flip(1)).flip(1) - layer(x)).abs().max() > 1e-3


def test_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="num_filters 8 must be a multiple of num_heads 3"):
        DPTNet(**{**SMALL, "num_heads": 3})
