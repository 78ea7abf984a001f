"""The loops that tools/bench/separation.py compares with do what their programs do, faults included; ours has none."""

import sys
from pathlib import Path

import pytest
import torch

from tse_lib.config import Inference
from tse_lib.inference.chunked import infer

sys.path.insert(0, str(Path(__file__).parents[1] / "tools" / "bench"))
from rival_loops import LOOPS, msst, predecessor  # noqa: E402

CHUNK, RATE = 640, 640


class Counted(torch.nn.Module):
    """Gives back what it gets, as one source, and counts the chunks; or what depends on where in a chunk it is."""

    def __init__(self, ramp=0.0):
        super().__init__()
        self.num_chunks, self.ramp = 0, ramp

    def forward(self, chunks):
        self.num_chunks += len(chunks)
        return chunks[:, None] * (1 + self.ramp * torch.linspace(0, 1, chunks.shape[-1]))


def ours(network, song, chunk, overlap, batch_size=1):
    settings = Inference(
        chunk_s=chunk / RATE, overlap_count=overlap, batch_size=batch_size, level="model", stitch=False
    )
    return infer(network, song, None, settings, RATE)


def noise(chunks):
    return torch.randn(2, round(chunks * CHUNK), generator=torch.manual_seed(0))


@pytest.mark.parametrize(
    ("seconds", "overlap", "counts"),
    [
        (180, 8, (114, 129, 136, 129)),
        (180, 4, (57, 64, 67, 64)),
        (180, 2, (29, 32, 33, 32)),
        (30, 8, (13, 28, 35, 28)),
        (10, 8, (1, 14, 7, 1)),
    ],
)
def test_how_many_chunks_a_song_takes(seconds, overlap, counts):
    """As counted in the programs themselves for chunks of 523,776 samples at 44.1 kHz."""
    song, found = noise(seconds * 44100 / 523776), []
    for loop in (*LOOPS.values(), ours):
        network = Counted()
        loop(network, song, CHUNK, overlap)
        found.append(network.num_chunks)
    assert tuple(found) == counts


def test_the_predecessor_leaves_the_end_without_a_value():
    song = noise(3.3)
    output = predecessor(Counted(), song, CHUNK, 2)[0]
    uncovered = output.isnan().any(0)
    assert uncovered.any() and uncovered[: 3 * CHUNK].sum() == 0
    torch.testing.assert_close(output[:, ~uncovered], song[:, ~uncovered])


def test_the_output_of_msst_depends_on_the_batch_and_ours_does_not():
    song = noise(1.4)
    for loop, differs in ((msst, True), (ours, False)):
        one, many = (loop(Counted(ramp=1.0), song, CHUNK, 4, batch_size) for batch_size in (1, 8))
        assert ((one - many).abs().max() > 1e-3) == differs


@pytest.mark.parametrize("name", ["audio_separator", "msst"])
def test_the_others_cover_a_song(name):
    song = noise(5.3)
    torch.testing.assert_close(LOOPS[name](Counted(), song, CHUNK, 4)[0], song, rtol=1e-4, atol=1e-5)
