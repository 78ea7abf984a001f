"""Chunks: nothing is lost, and every frame is where the paths expect it."""

import pytest
import torch

from tests.separator import noise
from tse_lib.nn.dual_path import (
    PADDINGS,
    MaskHead,
    across_chunks,
    check_chunks,
    from_chunks,
    to_chunks,
    within_chunks,
)
from tse_lib.nn.transformer import attend

LENGTHS = [1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 39, 40, 41]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [2, 4, 8, 10])
@pytest.mark.parametrize("length", LENGTHS)
def test_every_frame_is_in_two_chunks(padding, size, length):
    frames = noise(2, 3, length)
    chunks = to_chunks(frames, size, padding)
    assert chunks.shape[-1] == size
    torch.testing.assert_close(from_chunks(chunks, length, padding), 2 * frames, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("padding", "length", "expected"),
    [  # frames 1, 2, …; 0 is a zero of the padding
        ("whole", 3, [[0, 0, 0, 0], [0, 0, 1, 2], [1, 2, 3, 0], [3, 0, 0, 0]]),
        ("whole", 4, [[0, 0, 0, 0], [0, 0, 1, 2], [1, 2, 3, 4], [3, 4, 0, 0], [0, 0, 0, 0]]),
        ("half", 3, [[0, 0, 1, 2], [1, 2, 3, 0], [3, 0, 0, 0], [0, 0, 0, 0]]),
        ("half", 1, [[0, 0, 1, 0], [1, 0, 0, 0]]),
        ("half", 4, [[0, 0, 1, 2], [1, 2, 3, 4], [3, 4, 0, 0], [0, 0, 0, 0]]),
        ("half", 6, [[0, 0, 1, 2], [1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),
    ],
)
def test_where_the_zeros_are(padding, length, expected):
    chunks = to_chunks(torch.arange(1.0, length + 1)[None, None], 4, padding)
    assert chunks[0, 0].int().tolist() == expected


def test_paths_see_one_chunk_or_one_place_in_all_chunks():
    x = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)  # (B, D, J, K)
    seen = []

    def path(rows):
        seen.append(rows)
        return rows.cumsum(1)

    torch.testing.assert_close(within_chunks(path, x), x.cumsum(3))
    torch.testing.assert_close(across_chunks(path, x), x.cumsum(2))
    assert [rows.shape for rows in seen] == [(2 * 4, 5, 3), (2 * 5, 4, 3)]


def test_masks_of_one_source_depend_on_its_channels_only():
    torch.manual_seed(0)
    head, chunks = MaskHead(2, 4, 6, "half", "sigmoid"), noise(3, 4, 4, 8)
    masks = head(chunks, 11)
    assert masks.shape == (3, 2, 6, 11)
    with torch.no_grad():
        head.source_conv.weight[4:] = 0
    after = head(chunks, 11)
    assert torch.equal(after[:, 0], masks[:, 0]) and not torch.equal(after[:, 1], masks[:, 1])


def test_attention_keeps_no_scores(monkeypatch):
    """The result is torch's, but not by the path that keeps rows x heads x steps x steps scores."""
    attention, x = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval(), noise(2, 5, 8)
    with torch.no_grad():
        expected = attention(x, x, x, need_weights=False)[0]

        def refuse(*args, **kwargs):
            raise AssertionError("the path that keeps all scores")

        monkeypatch.setattr(torch, "_native_multi_head_attention", refuse)
        with pytest.raises(AssertionError):
            attention(x, x, x, need_weights=False)
        torch.testing.assert_close(attend(attention, x), expected)


@pytest.mark.parametrize(
    ("size", "padding", "told"),
    [
        (5, "half", "chunk_size 5: must be even"),
        (0, "half", "chunk_size 0"),
        (4, "both", "'both' is none of whole, half"),
    ],
)
def test_chunks_that_cannot_be(size, padding, told):
    with pytest.raises(ValueError, match=told):
        check_chunks(size, padding)
