"""Cutting and putting together: exact cover at any length, and of separators order and level."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from tse_lib.config import Inference
from tse_lib.inference.chunked import (
    PROJECTED,
    align_channels,
    completed,
    cut,
    fit_level,
    infer,
    infer_blocks,
    window_of,
)

CHUNK = 100
LENGTHS = [1, 30, CHUNK, CHUNK + 1, 140, 201, 1170]  # 0.3, 1, 1.4, 2.01 and 11.7 chunks among them
OVERLAPS = [1, 2, 3, 4, 8]
CROSSFADES = [0, 0.01, 0.125, 0.49]  # of tiling, overlap_count 1


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.manual_seed(seed))


def null_db(estimate, reference):
    return float(10 * torch.log10((estimate - reference).square().sum() / reference.square().sum()))


def settings(overlap_count=2, **others):
    return Inference(**{"chunk_s": CHUNK, "overlap_count": overlap_count, "stitch": False, "level": "model"} | others)


class Halves(nn.Module):
    """Two sources without any context: what is positive, and what is negative."""

    def forward(self, mixture):
        return torch.stack([mixture.clamp_min(0), mixture.clamp_max(0)], 1)


class Contextual(nn.Module):
    """Its output depends on the whole chunk, as that of a network with a global norm."""

    def forward(self, mixture):
        scaled = mixture / mixture.std(-1, keepdim=True, unbiased=False).clamp_min(1e-8)
        return torch.stack([scaled, scaled.cumsum(-1)], 1)


# ---------------------------------------------------------------------------------------- exact cover


def all_ways(test):
    """Overlaps, and tilings with each share in common."""
    ways = [(1, crossfade) for crossfade in CROSSFADES] + [(count, 0) for count in OVERLAPS[1:]]
    return pytest.mark.parametrize(("overlap_count", "crossfade"), ways)(test)


@pytest.mark.parametrize("window", ["hann", "flat", "trapezoid"])
@all_ways
@pytest.mark.parametrize("size", LENGTHS)
def test_sources_without_context_come_out_as_if_uncut(size, overlap_count, crossfade, window):
    mixture = noise(2, size)
    wanted = settings(overlap_count, crossfade=crossfade, window=window, batch_size=3)
    estimate = infer(Halves(), mixture, None, wanted, 1)
    assert estimate.shape == (2, 2, size)
    assert null_db(estimate, Halves()(mixture[None])[0]) < -120


@pytest.mark.parametrize("overlap_count", OVERLAPS[1:])
@pytest.mark.parametrize("size", LENGTHS[3:])
def test_every_sample_lies_in_as_many_chunks_as_asked(size, overlap_count):
    """Chunks hold their samples' places; mirrored ones do not count, nor what the window leaves out."""
    hop = CHUNK // overlap_count
    chunks = list(cut([torch.arange(1.0, size + 1)[None]], CHUNK, hop))
    covered = torch.zeros(size + 2 * CHUNK)
    for number, (chunk, context, _) in enumerate(chunks):
        start = CHUNK + (number + 1 - overlap_count) * hop
        covered[start : start + hop * overlap_count] += 1
        inside = slice(max(start, CHUNK), min(start + CHUNK, CHUNK + size))
        assert not context and torch.equal(
            chunk[0, inside.start - start : inside.stop - start], torch.arange(inside.start, inside.stop) - CHUNK + 1.0
        )
    assert (covered[CHUNK : CHUNK + size] == overlap_count).all()
    assert sum(num_done for _, _, num_done in chunks) == size
    assert len(chunks) == -(-size // hop) + overlap_count - 1  # none that touches nothing but mirrored samples


@pytest.mark.parametrize("crossfade", CROSSFADES)
@pytest.mark.parametrize("size", LENGTHS[3:])
def test_tiles_are_as_few_as_can_be_and_hold_the_signal_alone(size, crossfade):
    common = round(crossfade * CHUNK)
    hop = CHUNK - common
    chunks = list(cut([torch.arange(float(size))[None]], CHUNK, hop))
    assert len(chunks) == -(-(size - common) // hop) and sum(num_done for *_, num_done in chunks) == size
    for number, (chunk, context, _) in enumerate(chunks):
        start = number * hop - context
        assert torch.equal(chunk[0], torch.arange(start, start + CHUNK).float())
        assert not context or number == len(chunks) - 1
    assert start + CHUNK == size


@pytest.mark.parametrize("hop", [25, CHUNK - 12])
@pytest.mark.parametrize("size", [1, 30, CHUNK])
def test_short_signals_are_one_chunk_of_their_length(size, hop):
    ((chunk, context, num_done),) = cut([noise(2, size)], CHUNK, hop)
    assert torch.equal(chunk, noise(2, size)) and (context, num_done) == (0, size)


@all_ways
@pytest.mark.parametrize("size", LENGTHS)
def test_batch_size_and_blocks_change_nothing(size, overlap_count, crossfade):
    mixture = noise(2, size)
    expected = infer(Contextual(), mixture, None, settings(overlap_count, crossfade=crossfade), 1)
    assert expected.isfinite().all()
    for batch_size, block in ((2, 7), (3, CHUNK), (100, 1000)):
        wanted = settings(overlap_count, crossfade=crossfade, batch_size=batch_size)
        blocks = list(infer_blocks(Contextual(), mixture.split(block, -1), None, wanted, 1))
        assert null_db(torch.cat(blocks, -1), expected) < -100


@pytest.mark.parametrize(("overlap_count", "crossfade"), [(4, 0), (1, 0.125)])
def test_blocks_come_out_as_soon_as_they_are_done(overlap_count, crossfade):
    """What was read but has not come out is bounded, however long the signal."""
    read = 0

    def blocks():
        nonlocal read
        for _ in range(1000):
            read += 10
            yield noise(1, 10)

    done = held = 0
    wanted = settings(overlap_count, crossfade=crossfade, batch_size=2)
    for block in infer_blocks(Halves(), blocks(), None, wanted, 1):
        held, done = max(held, read - done), done + block.shape[-1]
    assert done == 10000 and held <= 3 * CHUNK


def test_the_ends_of_a_trapezoid_count_less():
    shape = window_of(100, 50, "trapezoid")
    rise = [0.05 + 0.1 * place for place in range(10)]
    assert shape.tolist() == pytest.approx([*rise, *[1.0] * 80, *reversed(rise)])
    tile = window_of(100, 88, "trapezoid")  # neighbours share 12
    assert tile[12:88].unique().tolist() == [1.0] and torch.allclose(tile[:12] + tile[88:], torch.ones(12).double())


@pytest.mark.parametrize("window", ["hann", "flat"])
@pytest.mark.parametrize("overlap_count", [2, 3, 7])
def test_windows(overlap_count, window):
    hop = CHUNK // overlap_count
    shape = window_of(CHUNK, hop, window)
    used, rest = shape[: hop * overlap_count].view(overlap_count, hop), shape[hop * overlap_count :]
    assert (used > 0).all() and not rest.any()
    sums = used.sum(0)
    assert torch.allclose(sums, torch.full_like(sums, overlap_count / (2 if window == "hann" else 1)), atol=1e-12)


@pytest.mark.parametrize("crossfade", CROSSFADES)
def test_tiles_fade_where_they_overlap(crossfade):
    common = round(crossfade * CHUNK)
    shape = window_of(CHUNK, CHUNK - common, "hann")
    assert torch.equal(shape[common : CHUNK - common], torch.ones(CHUNK - 2 * common, dtype=torch.float64))
    sums = shape[:common] + shape[CHUNK - common :]
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-12) and (shape > 0).all()
    assert (shape[:common].diff() > 0).all() and torch.allclose(shape, shape.flip(0))


def test_neighbours_fade_into_each_other():
    """Each chunk's output is its own number: it goes from one to the next over what they share, and nowhere else."""

    class Counting(nn.Module):
        count = -1.0

        def forward(self, mixture):
            self.count += 1
            return torch.full_like(mixture[:, None], self.count)

    estimate = infer(Counting(), noise(1, 276), None, settings(1, crossfade=0.12), 1)[0, 0]  # 0, 88, 176 to 276
    assert torch.allclose(estimate[:88], torch.zeros(88)) and torch.allclose(estimate[100:176], torch.ones(76))
    assert torch.allclose(estimate[188:], torch.full((88,), 2.0))
    assert (estimate[88:100].diff() > 0).all() and (estimate[176:188].diff() > 0).all()


def test_the_cross_fade_is_smooth():
    fade = window_of(CHUNK, CHUNK // 2, "hann")
    assert fade[0] < 1e-3 and fade.diff().abs().max() < 2 * torch.pi / CHUNK and torch.allclose(fade, fade.flip(0))


def test_a_crossfade_is_for_tiles():
    with pytest.raises(ValueError, match="crossfade is for overlap_count 1; here chunks overlap 2 times"):
        settings(2, crossfade=0.1)


@pytest.mark.parametrize(("chunk_s", "overlap_count"), [(0.1, 1), (10, 11)])
def test_chunks_that_cannot_be(chunk_s, overlap_count):
    with pytest.raises(ValueError, match="take a longer chunk_s"):
        infer(Halves(), noise(1, 50), None, settings(overlap_count, chunk_s=chunk_s), 1)


def test_signals_and_outputs_that_cannot_be():
    with pytest.raises(ValueError, match="without samples"):
        infer(Halves(), noise(1, 0), None, settings(), 1)
    broken = nn.Module()
    broken.forward = lambda mixture: mixture[:, None] / 0
    with pytest.raises(ValueError, match="not finite"):
        infer(broken, noise(1, 50), None, settings(), 1)


# ---------------------------------------------------------------------------------------- order


class Scrambled(nn.Module):
    """`Halves` of three: each chunk, and each of its channels, in an order of its own."""

    def __init__(self, scale=False):
        super().__init__()
        self.generator, self.scale, self.orders = torch.manual_seed(1), scale, set()

    def forward(self, mixture):
        sources = three(mixture)
        for item in range(sources.shape[0]):
            for channel in range(sources.shape[2]):
                order = torch.randperm(3, generator=self.generator)
                self.orders.add(tuple(order.tolist()))
                scales = (torch.rand(3, 1, generator=self.generator) + 0.5) if self.scale else 1
                sources[item, :, channel] = sources[item, order, channel] * scales
        return sources


def three(mixture):
    """Loud, middle, quiet samples of (…, C, T): (…, 3, C, T), no two of them at the same place."""
    loud, quiet = mixture.abs() > 0.2, mixture.abs() < 0.1
    return torch.stack([mixture * loud, mixture * ~(loud | quiet), mixture * quiet], -3)


def in_one_order(estimate, reference):
    """The estimate (S, C, T) in the order that its first samples have; swaps later on are left for all to see."""
    score = torch.einsum("sct,pct->sp", reference[..., : CHUNK // 2], estimate[..., : CHUNK // 2])
    return estimate[linear_sum_assignment(score, maximize=True)[1]]


def talking(size, num_channels=1):
    """A mixture whose three sources have envelopes of their own, in all channels the same."""
    shape = 1 + 0.9 * torch.sin(torch.arange(size) / 37.0)
    wave = 2 * noise(1, size) * shape
    gains = torch.tensor([1.0, 0.8, 1.2])[:num_channels, None]
    return wave * gains


@pytest.mark.parametrize(
    ("overlap_count", "others"), [(2, {}), (3, {}), (4, {}), (1, {"crossfade": 0.3, "chunk_s": 3 * CHUNK})]
)
def test_scrambled_sources_are_put_in_one_order(overlap_count, others):
    mixture, model = talking(3000), Scrambled()
    wanted = settings(overlap_count, stitch=True, batch_size=4, **others)
    estimate = infer(model, mixture, None, wanted, 1)
    assert len(model.orders) == 6
    assert null_db(in_one_order(estimate, three(mixture)), three(mixture)) < -100
    swapped = infer(Scrambled(), mixture, None, settings(overlap_count), 1)
    assert null_db(in_one_order(swapped, three(mixture)), three(mixture)) > -10  # without stitching it is lost


def test_a_long_file_has_no_seam_and_no_swap():
    """As above, with levels of their own too, at chunks of 4000 samples: 80 seconds at 8 kHz."""
    mixture = talking(640000)
    wanted = settings(chunk_s=0.5, stitch=True, level="mixture", batch_size=8)
    estimate = infer(Scrambled(scale=True), mixture, None, wanted, 8000)
    assert null_db(in_one_order(estimate, three(mixture)), three(mixture)) < -50


def test_channels_that_were_scrambled_one_by_one():
    mixture, model = talking(60000, 3), Scrambled()
    estimate = infer(model, mixture, None, settings(chunk_s=2000, stitch=True, batch_size=4), 1)
    assert null_db(in_one_order(estimate, three(mixture)), three(mixture)) < -100


def test_channels_are_matched_across_delays_and_levels():
    """Two microphones a metre apart (3 ms at 16 kHz), one source nearer to each."""
    left = torch.stack([noise(16000).cumsum(0) * 0.1, noise(16000, seed=1).diff(prepend=torch.zeros(1))])
    right = left.roll(48, -1) * torch.tensor([[0.1], [3.0]])
    given = torch.stack([left, right.flip(0)], 1)[None]  # (1, S, C, T), the right channel swapped
    assert torch.equal(align_channels(given)[0, :, 1], right)
    assert torch.equal(align_channels(given)[0, :, 0], left)


def test_who_is_silent_in_the_overlap_takes_the_place_that_is_left():
    """Of two sources one speaks at a time: the one that speaks in the overlap decides, at any level."""
    speech = noise(1, 400)
    speech[:, 150:250] = speech[:, 150:250].abs()  # the second source is silent in chunks and overlaps here
    speech[:, 250:] = 0.01 * speech[:, 250:]
    estimate = infer(Swapped(), speech, None, settings(2, stitch=True), 1)
    assert null_db(estimate, Halves()(speech[None])[0]) < -100


class Swapped(Halves):
    """Every other chunk comes out the other way round."""

    count = 0

    def forward(self, mixture):
        self.count += 1
        sources = super().forward(mixture)
        return sources if self.count % 2 else sources.flip(1)


def test_a_fixed_order_is_left_alone():
    mixture = noise(1, 400)
    estimate = infer(Swapped(), mixture, None, settings(2), 1)
    assert null_db(estimate, Halves()(mixture[None])[0]) > -10


def test_stitching_needs_an_overlap():
    with pytest.raises(ValueError, match="overlap_count 1 leaves nothing by which to order"):
        infer(Halves(), noise(1, 400), None, settings(1, stitch=True), 1)
    assert infer(Halves(), noise(1, 80), None, settings(1, stitch=True), 1).shape == (2, 1, 80)  # one chunk


# ---------------------------------------------------------------------------------------- level


def test_sources_of_any_scale_and_sign_add_up_to_the_mixture():
    mixture = talking(3000)[None]
    sources = Halves()(mixture)
    scaled = sources * torch.tensor([3.0, -0.7])[:, None, None]
    assert null_db(fit_level(scaled, mixture), sources) < -40
    assert null_db(fit_level(sources, mixture), sources) < -100


@pytest.mark.parametrize("size", [5, 900, 5000])
def test_what_is_lacking_is_dealt_out_by_power(size):
    """Two tones that are too quiet get the rest of theirs; what nobody has any of is shared."""
    time = torch.arange(size) / 50
    sources = torch.stack([torch.sin(7 * time), torch.sin(60 * time)])[None, :, None].double()  # (1, 2, 1, T)
    estimates = sources * torch.tensor([0.9, 0.8])[None, :, None, None]
    whole = completed(estimates, sources.sum(1))
    torch.testing.assert_close(whole.sum(1), sources.sum(1), atol=1e-9, rtol=0)
    if size > PROJECTED:
        assert null_db(whole, sources) < null_db(estimates, sources) - 20
    silent = completed(0 * estimates, sources.sum(1))
    torch.testing.assert_close(silent[:, 0], sources.sum(1) / 2, atol=1e-9, rtol=0)


@pytest.mark.parametrize("crossfade", [0, 0.125])
def test_a_long_recording_is_the_sum_of_its_sources(crossfade):
    class Partly(nn.Module):
        def forward(self, mixture):
            return Halves()(mixture) * 0.7

    mixture = noise(2, 1170)
    wanted = settings(1 if crossfade else 3, crossfade=crossfade, sum_to_mixture=True)
    assert null_db(infer(Partly(), mixture, None, wanted, 1).sum(0), mixture) < -100


def test_each_channel_gets_its_own_factors():
    mixture = torch.stack([noise(1, 900), 5 * noise(1, 900, seed=1)], 1)  # (1, 2, 900)
    sources = Halves()(mixture)
    scaled = sources * torch.tensor([[1.0, 4.0], [0.5, 2.0]])[..., None]
    assert null_db(fit_level(scaled, mixture), sources) < -40


def test_a_source_that_is_not_there_is_not_raised():
    """What is left in a silent source, a faint copy of the other, keeps its distance to it."""
    mixture = noise(1, 1, 1000)
    estimates = torch.stack([mixture, 0.01 * mixture + 1e-4 * noise(1, 1, 1000, seed=1)], 1) * 7
    first, second = fit_level(estimates, mixture)[0]
    assert null_db(first, mixture[0]) < -35
    assert second.norm() < 0.011 * first.norm()


def test_silence_in_silence_out():
    """Where nothing comes in, a network that normalises would put out NaN."""

    class Normalising(nn.Module):
        def forward(self, mixture):
            return Halves()(mixture / mixture.std(-1, keepdim=True))

    mixture = noise(2, 1000)
    mixture[0, 200:700] = 0
    mixture[1] = 0
    for level in ("model", "mixture"):
        estimate = infer(Normalising(), mixture, None, settings(level=level, stitch=True), 1)
        assert estimate.isfinite().all() and not estimate[:, 1].any() and not estimate[:, 0, 300:600].any()
        assert estimate[:, 0, :200].abs().min(0).values.max() == 0 < estimate[:, 0, :200].abs().max()
