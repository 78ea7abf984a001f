"""DPRNN-TasNet: the contract of a separator."""

import functools

import pytest

from tests import separator
from tse_lib.models.dprnn import DPRNN

SMALL = {"num_filters": 10, "bottleneck_dim": 8, "hidden_dim": 6, "chunk_size": 20, "num_blocks": 2}
VARIANTS = {
    "paper": {},
    "speechbrain": {
        "kernel_size": 16, "stride": 8, "chunk_padding": "half", "encoder_relu": True, "mask": "relu",
        "bottleneck_bias": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_separator(variant):
    separator.check_all(functools.partial(DPRNN, **{**SMALL, **VARIANTS[variant]}))


def test_gradient_checkpointing_changes_nothing():
    separator.check_recomputing(functools.partial(DPRNN, **SMALL))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"chunk_size": 7}, "chunk_size 7: must be even"),
        ({"chunk_padding": "none"}, "chunk_padding: 'none' is none of whole, half"),
        ({"mask": "tanh"}, "mask: 'tanh' is none of sigmoid, relu"),
    ],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(ValueError, match=told):
        DPRNN(**{**SMALL, **options})
