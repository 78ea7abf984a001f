"""Items are a function of their number; batches hold them padded."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from tests import tiny
from tse_lib.config import Config, build
from tse_lib.data.dataset import (
    DrawnMixtures,
    RenderedMixtures,
    collate,
    collate_raw,
    load_waveforms,
    render_raw,
    set_up_worker,
    to_item,
)
from tse_lib.manifest import read_mixtures, read_table, write_mixtures, write_table
from tse_lib.simulation.render import render
from tse_lib.simulation.sample import Corpus, read_corpus


@pytest.fixture
def drawn(corpus_dir):
    return drawn_from(corpus_dir)


def drawn_from(data, max_steps=8):
    wanted = tiny.values()
    wanted["simulation"] |= {"rir_probability": 0.5, "num_enrolls": [1, 2], "speed": [0.9, 1.1]}
    wanted["simulation"] |= {"overlap_ratio": [0.5, 1], "enroll_noise_probability": 0.3, "clip_probability": 0.2}
    wanted["train"]["max_steps"] = max_steps
    corpus = read_corpus(data / "train", data / "noise", data / "rir")
    return DrawnMixtures(corpus, build(Config, wanted, "conf"))


def item(size, *enroll_sizes, present=True):
    return {
        "mix_id": f"m{size}",
        "mixture": torch.ones(size),
        "target": torch.full((1, size), 2.0),
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


def assert_same(one, other):
    assert one["mix_id"] == other["mix_id"]
    for key in ("mixture", "target", "enroll", "lengths", "present"):
        assert torch.equal(one[key], other[key]), key


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_change_nothing(drawn):
    batches = []
    for workers in (0, 1, 3):
        torch.manual_seed(workers)  # global state must not matter
        loader = DataLoader(
            drawn, batch_sampler=[[0, 1], [2, 3], [4, 5]], num_workers=workers, collate_fn=collate,
            worker_init_fn=set_up_worker,
        )  # fmt: skip
        batches.append(list(loader))
    for alone, one, three in zip(*batches, strict=True):
        assert_same(alone, one)
        assert_same(alone, three)


def test_order_and_a_restart_change_nothing(drawn):
    forwards = [drawn[index] for index in range(6)]
    again = DrawnMixtures(drawn.corpus, drawn.conf)
    for index in reversed(range(6)):
        assert_same(collate([forwards[index]]), collate([again[index]]))


def test_written_and_rendered_later_it_is_the_same(drawn, tmp_path):
    mixtures = [drawn.mixture(index) for index in range(6)]
    write_mixtures(tmp_path / "mixtures.jsonl", mixtures)
    for index, mixture in enumerate(read_mixtures(tmp_path / "mixtures.jsonl")):
        item = drawn[index]
        later = to_item(mixture, render(mixture, load_waveforms(mixture)))
        assert_same(collate([item]), collate([later]))


def with_simulation(drawn, **simulation):
    wanted = drawn.conf.model_dump()
    wanted["simulation"] |= simulation
    return DrawnMixtures(drawn.corpus, build(Config, wanted, "conf"))


@pytest.mark.parametrize(("speed", "limit_db"), [([1, 1], -80), ([0.9, 1.1], -45)])
def test_rendering_on_the_device_equals_rendering_in_a_worker(drawn, speed, limit_db):
    there, here = with_simulation(drawn, render_on="device", speed=speed), with_simulation(drawn, speed=speed)
    for indices in ([0, 1, 2, 3], [4, 5]):
        batch = render_raw(collate_raw([there[index] for index in indices]), torch.device("cpu"))
        wanted = collate([here[index] for index in indices])
        assert batch["mix_id"] == wanted["mix_id"] and torch.equal(batch["present"], wanted["present"])
        assert torch.equal(batch["lengths"], wanted["lengths"])
        for key in ("mixture", "target", "enroll"):
            error, power = (batch[key] - wanted[key]).square().sum(), wanted[key].square().sum()
            assert not power or 10 * torch.log10(error / power) < limit_db, key


def test_the_device_path_goes_through_workers(drawn):
    data = with_simulation(drawn, render_on="device")
    batches = []
    for workers in (0, 2):
        loader = DataLoader(data, batch_sampler=[[0, 1], [2, 3]], num_workers=workers, collate_fn=collate_raw)
        batches.append([render_raw(batch, torch.device("cpu")) for batch in loader])
    for one, other in zip(*batches, strict=True):
        assert_same(one, other)


# ----------------------------------------------------------------------------------------------------------- bad files


@pytest.fixture
def damaged(corpus_dir, tmp_path):
    """A corpus with one file that ends too early."""
    shutil.copytree(corpus_dir / "train", tmp_path / "train")
    table = read_table(tmp_path / "train" / "wav.scp")
    bad = tmp_path / "bad.wav"
    bad.write_bytes(Path(table["a-0"]).read_bytes()[:5000])
    write_table(tmp_path / "train" / "wav.scp", {**table, "a-0": str(bad)})
    corpus = read_corpus(tmp_path / "train", corpus_dir / "noise")
    wanted = tiny.values()
    wanted["train"]["max_steps"] = 40
    return DrawnMixtures(corpus, build(Config, wanted, "conf"))


def test_a_mixture_with_a_bad_file_is_drawn_anew_and_the_file_is_named(damaged):
    items = [damaged[index] for index in range(80)]
    spoilt = [index for index, item in enumerate(items) if item["bad_files"]]
    assert 5 < len(spoilt) < 60
    for index in spoilt:
        assert all("bad.wav: truncated" in fault for fault in items[index]["bad_files"])
        assert items[index]["present"] == damaged.mixture(index).target_present
        assert_same(collate([items[index]]), collate([damaged[index]]))
    assert collate(items)["bad_files"] == [fault for item in items for fault in item["bad_files"]]
    step = spoilt[0] // 2
    assert damaged.num_present(step) == sum(items[index]["present"] for index in (2 * step, 2 * step + 1))


def test_where_nothing_can_be_read_that_is_said(damaged):
    bad = damaged.corpus.speech[0].path
    corpus = Corpus([replace(utt, path=bad) for utt in damaged.corpus.speech])
    wanted = tiny.values()
    wanted["simulation"]["noise_probability"] = 0
    with pytest.raises(ValueError, match="train-3: 10 draws in a row cannot be used; the last: .*bad.wav: truncated"):
        DrawnMixtures(corpus, build(Config, wanted, "conf"))[3]


def test_a_target_that_happens_to_be_silent_is_drawn_anew(corpus_dir, tmp_path):
    """Where no activity was measured, silence shows only when it is read."""
    wave = tiny.voice("a-0", tiny.RATE)
    wave[: tiny.RATE // 2] = 0
    waves = {f"{talker}-{number}": wave for talker in "abc" for number in range(2)}
    tiny.write_set(tmp_path / "train", waves)
    (tmp_path / "train" / "utt2activity").unlink()
    wanted = tiny.values()
    wanted["simulation"] |= {"segment_s": 0.2, "target_absent": 0, "noise_probability": 0}
    data = DrawnMixtures(read_corpus(tmp_path / "train"), build(Config, wanted, "conf"))
    silent = [index for index in range(16) if data.mixture(index).talkers[0].start + 1600 <= tiny.RATE // 2]
    assert silent
    assert all(data[index]["target"].any() and not data[index]["bad_files"] for index in silent)


def test_memory_does_not_grow_with_the_draws(corpus_dir):
    """What drawing keeps (rooms read, headers, the simulation of the step) is bounded."""
    code = f"""
import gc, tracemalloc
from tests.test_dataset import drawn_from
data = drawn_from(__import__("pathlib").Path({str(corpus_dir)!r}), 4000)
held = []
tracemalloc.start()
for index in range(600):
    data[index]
    if index % 200 == 199:
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
print(held[-1] - held[-2])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 50_000


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


def test_the_mixtures_of_a_step_have_one_length(drawn):
    data = with_simulation(drawn, segment_s=[0.3, 0.5])
    lengths = [data.mixture(index).num_samples for index in range(16)]
    assert lengths[0::2] == lengths[1::2] and len(set(lengths)) == 8
    again = with_simulation(drawn, segment_s=[0.3, 0.5])
    assert [again.mixture(index).num_samples for index in reversed(range(16))] == lengths[::-1]


def test_rendered_mixtures_are_read_back(corpus_dir):
    data = RenderedMixtures(str(corpus_dir / "dev"), tiny.RATE)
    assert len(data) == 4
    for index in range(4):
        got, mixture = data[index], data.mixtures[index]
        assert got["mix_id"] == mixture.mix_id and got["present"] == mixture.target_present
        assert len(got["mixture"]) == mixture.num_samples and got["target"].shape == (1, mixture.num_samples)
        assert bool(got["target"].any()) == mixture.target_present
        assert len(got["enrolls"]) == len(mixture.enrolls)


def test_rendered_mixtures_of_another_rate_are_refused(corpus_dir):
    with pytest.raises(ValueError, match="has 8000 Hz, the model 16000 Hz"):
        RenderedMixtures(str(corpus_dir / "dev"), 16000)
