"""Items are a function of their number; batches hold them padded."""

import pytest
import torch
from torch.utils.data import DataLoader

from tests import tiny
from tse_lib.config import Config, build
from tse_lib.data.dataset import DrawnMixtures, RenderedMixtures, collate
from tse_lib.simulation.sample import read_corpus


@pytest.fixture
def drawn(corpus_dir):
    wanted = tiny.values()
    wanted["simulation"] |= {"rir_probability": 0.5, "num_enrolls": [1, 2], "speed": [0.9, 1.1]}
    corpus = read_corpus(corpus_dir / "train", corpus_dir / "noise", corpus_dir / "rir")
    return DrawnMixtures(corpus, build(Config, wanted, "conf"))


def item(size, *enroll_sizes, present=True):
    return {
        "mix_id": f"m{size}",
        "mixture": torch.ones(size),
        "target": torch.full((size,), 2.0),
        "enrolls": [torch.full((length,), float(length)) for length in enroll_sizes],
        "present": present,
    }


def test_collate_pads_with_zeros_and_tells_lengths():
    batch = collate([item(5, 3), item(4, 2, 6, present=False)])
    assert batch["mixture"].shape == batch["target"].shape == (2, 1, 5)
    assert batch["mixture"][1, 0].tolist() == [1, 1, 1, 1, 0]
    assert batch["enroll"].shape == (2, 2, 6) and batch["lengths"].tolist() == [[3, 0], [2, 6]]
    assert batch["enroll"][0].tolist() == [[3, 3, 3, 0, 0, 0], [0] * 6]
    assert batch["present"].tolist() == [True, False] and batch["mix_id"] == ["m5", "m4"]


def test_workers_change_nothing(drawn):
    batches = []
    for workers in (0, 2):
        torch.manual_seed(workers)  # global state must not matter
        loader = DataLoader(drawn, batch_sampler=[[0, 1], [2, 3], [4, 5]], num_workers=workers, collate_fn=collate)
        batches.append(list(loader))
    for alone, together in zip(*batches, strict=True):
        assert alone["mix_id"] == together["mix_id"]
        for key in ("mixture", "target", "enroll", "lengths", "present"):
            assert torch.equal(alone[key], together[key])


def test_an_item_does_not_depend_on_the_items_before(drawn):
    first = drawn[3]["mixture"]
    drawn[0], drawn[7]
    assert torch.equal(drawn[3]["mixture"], first)


def test_length_and_counts_follow_from_the_conf(drawn):
    assert len(drawn) == 8 * 2
    for step in range(8):
        items = [drawn.mixture(index) for index in (2 * step, 2 * step + 1)]
        assert drawn.num_present(step) == sum(mixture.target_present for mixture in items)


def test_the_curriculum_acts_at_its_step(corpus_dir):
    wanted = tiny.values()
    wanted["train"]["accumulate"] = 2  # 4 items a step
    wanted["curriculum"] = [{"until_step": 2, "simulation": {"num_talkers": 1, "target_absent": 0}}]
    corpus = read_corpus(corpus_dir / "train", corpus_dir / "noise")
    data = DrawnMixtures(corpus, build(Config, wanted, "conf"))
    counts = [len(data.mixture(index).talkers) for index in range(16)]
    assert counts[:8] == [1] * 8 and min(counts[8:]) >= 2
    assert data.num_present(0) == 4


def test_rendered_mixtures_are_read_back(corpus_dir):
    data = RenderedMixtures(str(corpus_dir / "dev"), tiny.RATE)
    assert len(data) == 4
    for index in range(4):
        got, mixture = data[index], data.mixtures[index]
        assert got["mix_id"] == mixture.mix_id and got["present"] == mixture.target_present
        assert len(got["mixture"]) == len(got["target"]) == mixture.num_samples
        assert bool(got["target"].any()) == mixture.target_present
        assert len(got["enrolls"]) == len(mixture.enrolls)


def test_rendered_mixtures_of_another_rate_are_refused(corpus_dir):
    with pytest.raises(ValueError, match="has 8000 Hz, the model 16000 Hz"):
        RenderedMixtures(str(corpus_dir / "dev"), 16000)
