"""Separation of whole recordings: rates, channels, blocks, and what is loaded."""

import numpy as np
import pytest
import torch

import tse_lib
from tests.test_chunked import Halves
from tests.tiny import voice
from tse_lib import checkpoint
from tse_lib.config import Deployed, Inference, build
from tse_lib.inference.extractor import Extractor
from tse_lib.inference.separator import Separator
from tse_lib.models import build_model

RATE = 8000
PARAMS = {"num_filters": 16, "bottleneck_dim": 8, "hidden_dim": 8, "skip_dim": 8, "num_blocks": 2, "num_repeats": 1}


def conf_of(**inference):
    values = {"sample_rate": RATE, "model": {"name": "conv_tasnet", "params": PARAMS}, "inference": inference}
    return build(Deployed, values, "test")


@pytest.fixture(scope="session")
def separator_path(tmp_path_factory):
    """A checkpoint of a small separator with random weights; read only."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("separator") / "best.pt"
    model = build_model("conv_tasnet", PARAMS, RATE, "separate")
    saved = {"modules": {"model": model.state_dict()}, "step": 1, "config": conf_of(chunk_s=0.5).model_dump()}
    checkpoint.save(path, saved)
    return path


@pytest.fixture(scope="module")
def separator(separator_path):
    return tse_lib.load(separator_path)


def test_what_is_loaded_follows_from_the_model(separator, checkpoint_path):
    assert isinstance(separator, Separator) and separator.sample_rate == RATE
    assert isinstance(tse_lib.load(checkpoint_path), Extractor)


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100, 11025])
@pytest.mark.parametrize("shape", [(9000,), (1, 9000), (2, 9001), (3, 1999), (1,), (2, 20)])
def test_sources_have_the_mixtures_shape_at_any_rate(separator, sample_rate, shape):
    wave = 0.1 * np.random.default_rng(0).standard_normal(shape)  # float64 is taken too
    sources = separator.separate(wave, sample_rate)
    assert sources.shape == (2, *shape) and sources.dtype == np.float32 and np.isfinite(sources).all()


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100])
def test_blocks_give_the_same_as_the_whole(separator, sample_rate):
    mixture = np.stack([voice("a-0", 12000), voice("b-0", 12000)])
    whole = separator.separate(mixture, sample_rate)
    blocks = np.split(mixture, [1, 1, 300, 5000, 11999], axis=1)
    streamed = np.concatenate(list(separator.separate_blocks(blocks, sample_rate)), -1)
    np.testing.assert_allclose(streamed, whole, rtol=0, atol=1e-6)


def test_sources_add_up_to_the_mixture(separator):
    """What an untrained network puts out is scaled, too: the sum comes as near to the mixture as it can."""
    mixture = voice("a-0", 12000) + voice("b-0", 12000)
    errors = {
        level: np.square(separator.separate(mixture, RATE, Inference(chunk_s=0.5, level=level)).sum(0) - mixture).sum()
        for level in ("mixture", "model")
    }
    assert errors["mixture"] < errors["model"] and errors["mixture"] < np.square(mixture).sum()


def test_resampling_keeps_time_and_level():
    """With sources that need no context the sum is the mixture, delayed by nothing."""
    time = np.arange(30000) / 44100
    mixture = (0.5 * np.sin(2 * np.pi * 440 * time) * np.sin(2 * np.pi * 3 * time)).astype(np.float32)
    separator = Separator(Halves(), conf_of(chunk_s=0.1, stitch=False, level="model"))
    error = separator.separate(mixture, 44100).sum(0) - mixture
    assert 10 * np.log10(np.square(error[500:-500]).sum() / np.square(mixture).sum()) < -60


@pytest.mark.parametrize(
    ("mixture", "told"),
    [
        (np.zeros(0, np.float32), "mixture: empty"),
        (np.full(100, np.nan, np.float32), "mixture: holds NaN"),
        (np.zeros(100, np.int16), "floating point .* got int16"),
        (np.zeros((100, 2), np.float32), "looks transposed"),
    ],
)
def test_mixtures_that_cannot_be(separator, mixture, told):
    with pytest.raises(ValueError, match=told):
        separator.separate(mixture, RATE)


def test_a_silent_mixture_gives_silence(separator):
    assert not separator.separate(np.zeros((2, 9000), np.float32), 16000).any()
