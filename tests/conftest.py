"""What all tests share: one thread, and a trained-looking model and corpus, each made once."""

import signal

import pytest
import torch

from tests import tiny

# A shell that starts us with & has SIGINT ignored, and what we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def default_dtype_comes_back():
    """A test that asks for float64 (parity) must not change the tests after it."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory):
    """A `data` folder with speech, noise, room responses and rendered `dev` mixtures; read only."""
    return tiny.make_data(tmp_path_factory.mktemp("corpus") / "data")


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory):
    """A `best.pt` of the tiny model with random weights; read only."""
    return tiny.make_checkpoint(tmp_path_factory.mktemp("model") / "best.pt")
