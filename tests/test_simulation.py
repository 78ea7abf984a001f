"""Mixtures: decided as text by names alone, rendered with the levels that were asked for."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests import tiny
from tse_lib import audio
from tse_lib.config import Sets, Simulation, build
from tse_lib.data.dataset import load_source, load_waveforms
from tse_lib.dsp.level import active_samples
from tse_lib.manifest import Mask, Mixture, Response, Source, Utterance, read_mixtures, write_data_dir, write_mixtures
from tse_lib.simulation.render import EQ_HZ, PEAK, Waveforms, render, render_batch
from tse_lib.simulation.sample import Corpus, check_disjoint, read_corpus, sample, sample_set, target_is_present

RATE = 8000


def conf_of(**changes) -> Simulation:
    return build(Simulation, {**tiny.SIMULATION, **changes}, "simulation")


@pytest.fixture(scope="module")
def corpus(corpus_dir) -> Corpus:
    return read_corpus(corpus_dir / "train", corpus_dir / "noise", corpus_dir / "rir")


def draw(corpus, count=40, seed=0, **changes) -> list[Mixture]:
    return [sample(corpus, conf_of(**changes), RATE, seed, "train", f"train-{i}") for i in range(count)]


# ------------------------------------------------------------------------------------------------ signal: levels


def voices(*names, seconds=1.0, seed=0):
    return [torch.from_numpy(tiny.voice(name, round(seconds * RATE))).double() for name in names]


def mixture_of(sir_db=(3.0,), snr_db=None, present=True, level_dbfs=-25.0, offsets=(0, 0, 0), num_samples=RATE):
    talkers = [
        Source("", 0, RATE, spk_id="abc"[place], offset=offsets[place], level_db=level)
        for place, level in enumerate([0.0, *sir_db])
    ]
    noise = None if snr_db is None else Source("", 0, RATE, level_db=snr_db)
    enroll = Source("", 0, RATE, spk_id="a" if present else "z")
    return Mixture("mix", RATE, num_samples, present, tuple(talkers), (enroll,), noise, level_dbfs)


def rendered(mixture, rirs=None, noise=None, enroll="a-9"):
    waves = voices("a-0", "b-0", "c-0")[: len(mixture.talkers)]
    noise = torch.randn(RATE, dtype=torch.float64, generator=torch.manual_seed(0)) if mixture.noise else noise
    return render(mixture, waveforms(waves, voices(enroll), noise, rirs))


def waveforms(talkers, enrolls, noise=None, rirs=None) -> Waveforms:
    """Enrolments without room or noise."""
    clean = [None] * len(enrolls)
    return Waveforms(talkers, enrolls, noise, rirs or [None] * len(talkers), clean, clean)


def level_db(x, where):
    return 10 * math.log10(x[where].square().mean())


def room(seed, direct=3):
    response = torch.randn(1500, dtype=torch.float64, generator=torch.manual_seed(seed))
    response *= 0.2 * torch.exp(-torch.arange(1500) / 250)
    response[direct] = 1.0
    return response


@pytest.mark.parametrize("with_rooms", [False, True], ids=["dry", "rooms"])
@pytest.mark.parametrize("sir_db", [(0.0,), (-7.5, 4.0), (20.0, -20.0)])
@pytest.mark.parametrize("snr_db", [-5.0, 12.0])
def test_sir_and_snr_are_what_was_asked_over_the_targets_active_samples(sir_db, snr_db, with_rooms):
    mixture = mixture_of(sir_db, snr_db, offsets=(1000, 0, 300))
    out = rendered(mixture, [room(seed) for seed in range(len(sir_db) + 1)] if with_rooms else None)
    active = active_samples(out.images[0], RATE)
    assert 0.1 < active.double().mean() < 0.9
    for image, wanted in zip(out.images[1:], sir_db, strict=True):
        assert level_db(out.images[0], active) - level_db(image, active) == pytest.approx(wanted, abs=0.01)
    speech = torch.stack(out.images).sum(0)
    assert level_db(speech, active) - level_db(out.noise, active) == pytest.approx(snr_db, abs=0.01)


def test_the_active_samples_are_those_of_the_target():
    """Loud noise in the target's pause does not count: the same levels come out with and without the pause."""
    mixture = mixture_of((0.0,), num_samples=RATE)
    target, other = voices("a-0", "b-0")
    target[RATE // 2 :] = 0
    other[RATE // 2 :] *= 30
    out = render(mixture, waveforms([target, other], voices("a-9")))
    active = active_samples(out.images[0], RATE)
    assert not active[RATE // 2 + 200 :].any()
    assert level_db(out.images[0], active) - level_db(out.images[1], active) == pytest.approx(0, abs=0.01)


def test_a_talker_in_the_targets_pauses_is_levelled_by_its_own_speech():
    target, other = voices("a-0", "b-0")
    target[RATE // 2 :], other[: RATE // 2 + 400] = 0, 0
    out = render(mixture_of((6.0,)), waveforms([target, other], voices("a-9")))
    levels = [level_db(image, active_samples(image, RATE)) for image in out.images]
    assert levels[0] - levels[1] == pytest.approx(6, abs=0.01)


@pytest.mark.parametrize("present", [True, False])
def test_the_mixture_is_the_sum_of_its_parts(present):
    out = rendered(mixture_of((2.0, -3.0), 5.0, present), [room(1), None, room(2)])
    torch.testing.assert_close(out.mixture, torch.stack([*out.images, out.noise]).sum(0), rtol=0, atol=1e-12)
    assert torch.equal(out.targets[0], out.images[0] if present else torch.zeros(RATE, dtype=torch.float64))


@pytest.mark.parametrize("level", [-40.0, -25.0])
def test_level_of_mixture_and_enrolment(level):
    out = rendered(mixture_of(level_dbfs=level))
    everywhere = torch.ones(RATE, dtype=torch.bool)
    assert level_db(out.mixture, everywhere) == pytest.approx(level, abs=0.01)
    assert level_db(out.enrolls[0], everywhere) == pytest.approx(level, abs=0.01)


def test_nothing_is_louder_than_the_peak_and_ratios_stay():
    mixture = mixture_of((4.0,), 3.0, level_dbfs=0.0)
    out = rendered(mixture)
    parts = [out.mixture, *out.images, out.noise]
    assert max(float(part.abs().max()) for part in parts) == pytest.approx(PEAK, abs=1e-9)
    assert float(out.enrolls[0].abs().max()) <= PEAK + 1e-12
    active = active_samples(out.images[0], RATE)
    assert level_db(out.images[0], active) - level_db(out.images[1], active) == pytest.approx(4, abs=0.01)


def test_a_unit_response_is_the_dry_signal():
    unit = torch.zeros(400, dtype=torch.float64)
    unit[0] = 0.3  # whatever its gain
    dry, wet = rendered(mixture_of((1.0,), 10.0)), rendered(mixture_of((1.0,), 10.0), [unit, unit])
    torch.testing.assert_close(wet.mixture, dry.mixture, rtol=0, atol=1e-10)
    torch.testing.assert_close(wet.targets[0], dry.targets[0], rtol=0, atol=1e-10)


def test_an_image_is_the_convolution_and_rings_on_after_the_crop():
    wave, response = voices("a-0", seconds=0.25)[0], room(4)
    mixture = mixture_of((), offsets=(500,))
    out = render(mixture, waveforms([wave], voices("a-9"), None, [response]))
    expected = np.zeros(RATE + 4000)
    full = np.convolve(wave.numpy(), response.numpy())
    expected[500 : 500 + len(full)] = full
    image = out.images[0].numpy()
    gain = image @ expected[:RATE] / (expected[:RATE] @ expected[:RATE])
    np.testing.assert_allclose(image, gain * expected[:RATE], atol=1e-9)
    assert np.abs(image[500 + len(wave) : 500 + len(full)]).max() > 0 and not image[:500].any()


def test_short_noise_is_repeated():
    clip = torch.randn(700, dtype=torch.float64, generator=torch.manual_seed(1))
    mixture = mixture_of((), 0.0)
    out = render(mixture, waveforms(voices("a-0"), voices("a-9"), clip))
    torch.testing.assert_close(out.noise[700:1400], out.noise[:700])
    assert (out.noise != 0).all()


def test_rendering_is_pure(corpus):
    mixture = draw(corpus, 1)[0]
    first, second = (render(mixture, load_waveforms(mixture)) for _ in range(2))
    assert torch.equal(first.mixture, second.mixture) and torch.equal(first.targets[0], second.targets[0])


def test_an_absent_targets_audio_is_zeros_and_its_interferers_keep_their_level():
    out = rendered(mixture_of((5.0,), present=False), enroll="z-0")
    active = active_samples(out.images[0], RATE)
    assert not out.targets[0].any()
    assert level_db(out.images[0], active) - level_db(out.images[1], active) == pytest.approx(5, abs=0.01)


# ------------------------------------------------------------------------------------- signal: rooms and the target


def rir_of(response):
    return Response("room.wav", 0, len(response), "room-1")


def in_room(mixture, response, **changes):
    talkers = tuple(dataclasses.replace(talker, rir=rir_of(response)) for talker in mixture.talkers)
    return dataclasses.replace(mixture, talkers=talkers, **changes)


def test_a_delayed_response_delays():
    delay = torch.zeros(300, dtype=torch.float64)
    delay[120] = 1.0
    dry, wet = rendered(mixture_of((1.0,))), rendered(mixture_of((1.0,)), [delay, delay])
    shifted = wet.images[0][120:]
    gain = (shifted @ dry.images[0][:-120]) / (dry.images[0][:-120] @ dry.images[0][:-120])
    torch.testing.assert_close(shifted, gain * dry.images[0][:-120], rtol=0, atol=1e-9)


def test_what_was_said_before_is_heard_in_the_room():
    """A crop that begins before the mixture sounds as the middle of the whole, reverberation running."""
    wave, response = voices("a-0", seconds=2.0)[0], room(4)
    mixture = mixture_of(())
    early = dataclasses.replace(mixture.talkers[0], offset=-3000)
    out = render(dataclasses.replace(mixture, talkers=(early,)), waveforms([wave], voices("a-9"), None, [response]))
    whole = torch.from_numpy(np.convolve(wave.numpy(), response.numpy()))[3000 : 3000 + RATE]
    gain = (out.images[0] @ whole) / (whole @ whole)
    torch.testing.assert_close(out.images[0], gain * whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("offset", [0, 400, -700])
def test_a_dry_target_is_the_direct_sound_and_an_early_one_ends_after_its_time(offset):
    wave, response = voices("a-0")[0], room(5, direct=8)
    images = {}
    for kind in ("dry", "early", "reverberant"):
        mixture = in_room(mixture_of(()), response, target=kind, early_s=0.02)
        talker = dataclasses.replace(mixture.talkers[0], offset=offset)
        mixture = dataclasses.replace(mixture, talkers=(talker,))
        out = render(mixture, waveforms([wave], voices("a-9"), None, [response]))
        images[kind] = out.targets[0]
        assert torch.equal(out.targets[0], out.images[0]) == (kind == "reverberant")
    direct = torch.zeros(RATE, dtype=torch.float64)
    begin = offset + 8
    part = wave[max(0, -begin) :][: RATE - max(0, begin)]
    direct[max(0, begin) : max(0, begin) + len(part)] = part
    gain = (images["dry"] @ direct) / (direct @ direct)
    torch.testing.assert_close(images["dry"], gain * direct, rtol=0, atol=1e-9)
    cut = response.clone()
    cut[8 + round(0.02 * RATE) :] = 0
    full = torch.from_numpy(np.convolve(wave.numpy(), cut.numpy()))
    wanted = torch.zeros(RATE, dtype=torch.float64)
    piece = full[max(0, -offset) :][: RATE - max(0, offset)]
    wanted[max(0, offset) : max(0, offset) + len(piece)] = piece
    gain = (images["early"] @ wanted) / (wanted @ wanted)
    torch.testing.assert_close(images["early"], gain * wanted, rtol=0, atol=1e-9)


def test_speech_that_begins_inside_fades_in():
    wave = torch.ones(RATE // 2, dtype=torch.float64)
    talker = Source("", 0, RATE // 2, offset=1000, fade_s=0.05)
    mixture = dataclasses.replace(mixture_of(()), talkers=(talker,))
    image = render(mixture, waveforms([wave], voices("a-9"))).images[0]
    image = image / image.max()
    assert not image[:1000].any() and image[1000] < 0.01 and image[1200] == pytest.approx(0.5, abs=0.02)
    assert (
        image[1400] == pytest.approx(1) and image[1000 + RATE // 2 - 1] < 0.01 and not image[1000 + RATE // 2 :].any()
    )


# ----------------------------------------------------------------------------------- signal: enrolments and the channel


def test_a_noisy_enrolment_has_its_snr_and_the_mixture_is_as_before():
    mixture = mixture_of((2.0,))
    noisy = dataclasses.replace(mixture.enrolls[0], noise=Source("", 0, RATE, level_db=4.0))
    hiss = torch.randn(RATE, dtype=torch.float64, generator=torch.manual_seed(3))
    waves = voices("a-0", "b-0")
    clean = render(mixture, waveforms(waves, voices("a-9")))
    out = render(
        dataclasses.replace(mixture, enrolls=(noisy,)),
        Waveforms(waves, voices("a-9"), None, [None, None], [None], [hiss]),
    )
    assert torch.equal(out.mixture, clean.mixture)
    speech, noise = voices("a-9")[0], hiss
    weights = torch.linalg.lstsq(torch.stack([speech, noise], 1), out.enrolls[0][:, None]).solution[:, 0]
    active = active_samples(speech, RATE)
    snr = level_db(speech * weights[0], active) - level_db(noise * weights[1], active)
    assert snr == pytest.approx(4.0, abs=0.01)


def test_a_reverberant_and_equalised_enrolment():
    mixture, response = mixture_of(()), room(6)
    enroll = dataclasses.replace(mixture.enrolls[0], rir=rir_of(response), eq_db=(6.0,) * 6)
    waves = Waveforms(voices("a-0"), voices("a-9"), None, [None], [response], [None])
    out = render(dataclasses.replace(mixture, enrolls=(enroll,)), waves).enrolls[0]
    wanted = torch.from_numpy(np.convolve(voices("a-9")[0].numpy(), response.numpy()))[:RATE]
    gain = (out @ wanted) / (wanted @ wanted)  # the same gain at all frequencies changes the level alone, which is set
    torch.testing.assert_close(out, gain * wanted, rtol=0, atol=1e-8)


def test_a_band_limit_leaves_the_parts_adding_up():
    out = rendered(dataclasses.replace(mixture_of((2.0,), 5.0), band_limit_hz=1500.0))
    torch.testing.assert_close(out.mixture, torch.stack([*out.images, out.noise]).sum(0), rtol=0, atol=1e-10)
    active = active_samples(out.images[0], RATE)
    assert level_db(out.images[0], active) - level_db(out.images[1], active) == pytest.approx(2.0, abs=0.01)
    for part in (out.mixture, out.targets[0], out.noise):
        spectrum = torch.fft.rfft(part * torch.hann_window(RATE, dtype=part.dtype)).abs().square()
        assert float(spectrum[1700:].sum() / spectrum.sum()) < 1e-6


def test_clipping_and_masks_change_the_mixture_alone():
    plain = rendered(mixture_of((2.0,), 5.0))
    masks = (Mask("time", 0.2, 0.4), Mask("freq", 500.0, 700.0))
    for changes in ({"clip_db": 6.0}, {"masks": masks}):
        out = rendered(dataclasses.replace(mixture_of((2.0,), 5.0), **changes))
        assert not torch.equal(out.mixture, plain.mixture)
        assert torch.equal(out.targets[0], plain.targets[0]) and torch.equal(out.noise, plain.noise)
        assert all(torch.equal(*pair) for pair in zip(out.images, plain.images, strict=True))
    clipped = rendered(dataclasses.replace(mixture_of((2.0,), 5.0), clip_db=6.0)).mixture
    most = float(plain.mixture.abs().max()) * 10 ** (-6 / 20)
    assert float(clipped.abs().max()) == pytest.approx(most)
    torch.testing.assert_close(clipped, plain.mixture.clamp(-most, most), rtol=0, atol=0)


def test_a_batch_is_rendered_as_its_mixtures_alone(corpus):
    mixtures = draw(
        corpus, 12, rir_probability=0.6, noise_probability=0.7, target="early", speed=[0.9, 1.1], overlap_ratio=[0, 1],
        target_presence=[0.5, 1], enroll_noise_probability=0.5, enroll_rir_probability=0.5, band_limit_probability=0.3,
        band_limit_hz=2000, clip_probability=0.3, num_time_masks=[0, 2], time_mask_s=[0, 0.1],
    )  # fmt: skip
    waves = [load_waveforms(mixture) for mixture in mixtures]
    for together, mixture, wave in zip(render_batch(mixtures, waves), mixtures, waves, strict=True):
        alone = render(mixture, wave)
        pairs = [(together.mixture, alone.mixture), (together.targets[0], alone.targets[0])]
        pairs += [*zip(together.images, alone.images, strict=True), *zip(together.enrolls, alone.enrolls, strict=True)]
        assert (together.noise is None) == (alone.noise is None)
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


# ------------------------------------------------------------------------------------------------ signal: from files


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
@pytest.mark.parametrize("file_rate", [8000, 16000])
def test_speed_moves_pitch_and_duration(tmp_path, speed, file_rate):
    time = np.arange(file_rate) / file_rate
    audio.write(tmp_path / "tone.wav", (0.5 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32), file_rate)
    wave = load_source(Source(str(tmp_path / "tone.wav"), 0, file_rate, speed=speed), RATE).numpy()
    assert len(wave) == pytest.approx(RATE / speed, abs=2)
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 8 * RATE))
    assert spectrum.argmax() / 8 == pytest.approx(1000 * speed, abs=1)


def test_a_crop_is_read_from_where_it_says(tmp_path):
    wave = tiny.voice("a-0", RATE)
    audio.write(tmp_path / "a.wav", wave, RATE)
    np.testing.assert_array_equal(load_source(Source(str(tmp_path / "a.wav"), 1234, 500), RATE), wave[1234:1734])


def test_drawn_mixtures_render_with_their_levels(corpus):
    """End to end with files, speed and rooms."""
    for mixture in draw(corpus, 12, rir_probability=0.5, speed=[0.9, 1.1], noise_probability=1):
        out = render(mixture, load_waveforms(mixture))
        active = active_samples(out.images[0], RATE)
        for image, source in zip(out.images[1:], mixture.talkers[1:], strict=True):
            sir = level_db(out.images[0].double(), active) - level_db(image.double(), active)
            assert sir == pytest.approx(source.level_db, abs=0.01)
        speech = torch.stack(out.images).sum(0).double()
        snr = level_db(speech, active) - level_db(out.noise.double(), active)
        assert snr == pytest.approx(mixture.noise.level_db, abs=0.01)
        assert len(out.mixture) == mixture.num_samples


# ------------------------------------------------------------------------------------------------ text: who


def test_enrolments_are_of_the_target_and_never_mixed(corpus):
    for mixture in draw(corpus, 100, num_enrolls=[1, 2]):
        mixed = {source.utt_id for source in mixture.talkers}
        assert not mixed & {source.utt_id for source in mixture.enrolls}
        assert len({source.utt_id for source in mixture.enrolls}) == len(mixture.enrolls)
        assert len({source.spk_id for source in mixture.talkers}) == len(mixture.talkers)
        speakers = {source.spk_id for source in mixture.enrolls}
        assert speakers == {mixture.target_spk}
        if mixture.target_present:
            assert mixture.talkers[0].spk_id == mixture.target_spk
        else:
            assert mixture.target_spk not in {source.spk_id for source in mixture.talkers}


def test_counts_lie_in_their_ranges_and_reach_both_ends(corpus):
    mixtures = draw(corpus, 100, num_talkers=[1, 3], num_enrolls=[1, 2])
    assert {len(mixture.talkers) for mixture in mixtures} == {1, 2, 3}
    assert {len(mixture.enrolls) for mixture in mixtures} == {1, 2}


def test_levels_and_speeds_lie_in_their_ranges(corpus):
    mixtures = draw(corpus, 100, sir_db=[-3, 3], snr_db=[7, 9], level_dbfs=[-31, -30], speed=[0.95, 1.05])
    sirs = [source.level_db for mixture in mixtures for source in mixture.talkers[1:]]
    assert -3 <= min(sirs) < -2 and 2 < max(sirs) <= 3
    assert all(7 <= mixture.noise.level_db <= 9 for mixture in mixtures if mixture.noise)
    assert all(-31 <= mixture.level_dbfs <= -30 for mixture in mixtures)
    speeds = [source.speed for mixture in mixtures for source in mixture.talkers]
    assert 0.95 <= min(speeds) < 0.97 and 1.03 < max(speeds) <= 1.05


def test_a_talkers_speed_is_its_enrolments(corpus):
    for mixture in draw(corpus, 40, speed=[0.9, 1.1], target_absent=0):
        assert {source.speed for source in mixture.enrolls} == {mixture.talkers[0].speed}
        assert len({source.speed for source in mixture.talkers}) == len(mixture.talkers)


def test_presence_noise_and_rooms_come_as_often_as_asked(corpus):
    mixtures = draw(corpus, 400, target_absent=0.25, noise_probability=0.6, rir_probability=0.3)
    assert np.mean([not mixture.target_present for mixture in mixtures]) == pytest.approx(0.25, abs=0.07)
    assert np.mean([mixture.noise is not None for mixture in mixtures]) == pytest.approx(0.6, abs=0.08)
    rooms = [bool(source.rir) for mixture in mixtures for source in mixture.talkers]
    assert np.mean(rooms) == pytest.approx(0.3, abs=0.06)
    assert not any(source.rir for mixture in mixtures for source in mixture.enrolls)


def test_a_fixed_set_has_as_many_absent_targets_as_it_says(corpus_dir):
    one = {"num_mixtures": 30, "speech": "train", "noise": "noise", "simulation": tiny.SIMULATION}
    sets = {"seed": 3, "sample_rate": RATE, "sets": {"few": {**one, "num_absent": 4}, "none": {**one, "num_absent": 0}}}
    for name, count in (("few", 4), ("none", 0)):
        _, mixtures = sample_set(corpus_dir, name, build(Sets, sets, "sets"))
        assert sum(not mixture.target_present for mixture in mixtures) == count
    with pytest.raises(ValueError, match="num_absent 31: there are 30 mixtures"):
        build(Sets, {**sets, "sets": {"few": {**one, "num_absent": 31}}}, "sets")


def test_presence_can_be_drawn_alone(corpus):
    conf = conf_of(target_absent=0.5)
    for mixture in draw(corpus, 60, target_absent=0.5):
        assert mixture.target_present == target_is_present(conf, 0, "train", mixture.mix_id)


# ---------------------------------------------------------------------------------------------- text: by names alone


def test_the_order_of_drawing_changes_nothing(corpus):
    forwards = draw(corpus, 10)
    backwards = [sample(corpus, conf_of(), RATE, 0, "train", f"train-{i}") for i in reversed(range(10))]
    assert forwards == backwards[::-1]


def test_another_process_draws_the_same_text(corpus, corpus_dir):
    code = f"""
import random
from pathlib import Path
from tests.test_simulation import draw
from tse_lib.simulation.sample import read_corpus
data = Path({str(corpus_dir)!r})
for mixture in draw(read_corpus(data / "train", data / "noise", data / "rir"), 3, rir_probability=0.5):
    print(mixture.to_json())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [mix.to_json() for mix in draw(corpus, 3, rir_probability=0.5)]


def test_seed_split_and_id_all_count(corpus):
    one = sample(corpus, conf_of(), RATE, 0, "train", "m")
    others = [sample(corpus, conf_of(), RATE, seed, split, "m") for seed, split in ((1, "train"), (0, "dev"))]
    assert all(dataclasses.replace(other, mix_id="m") != one for other in others)


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        ({"noise_probability": 0}, {"noise"}),
        ({"level_dbfs": -3}, {"level_dbfs"}),
        ({"snr_db": 1}, {"noise"}),
        ({"rir_probability": 1}, {"talkers"}),
        ({"sir_db": 1}, {"talkers"}),
        ({"enroll_s": 0.2}, {"enrolls"}),
        ({"num_enrolls": 2}, {"enrolls"}),
    ],
)
def test_one_knob_moves_nothing_else(corpus, changes, moved):
    for before, after in zip(draw(corpus, 12), draw(corpus, 12, **changes), strict=True):
        before, after = dataclasses.asdict(before), dataclasses.asdict(after)
        assert {key for key in before if before[key] != after[key]} <= moved
        for one, other in zip(before["talkers"], after["talkers"], strict=True):
            run_in = {"start", "num_samples", "offset"} if changes.get("rir_probability") else set()
            assert {key for key in one if one[key] != other[key]} <= {"rir", "level_db", *run_in}


def test_one_more_enrolment_keeps_the_first(corpus):
    for one, two in zip(draw(corpus, 12), draw(corpus, 12, num_enrolls=2), strict=True):
        assert two.enrolls[0] == one.enrolls[0]


def test_text_survives_the_file(corpus, tmp_path):
    mixtures = draw(corpus, 10, rir_probability=0.5)
    write_mixtures(tmp_path / "mixtures.jsonl", mixtures)
    assert read_mixtures(tmp_path / "mixtures.jsonl") == mixtures


# ------------------------------------------------------------------------------------------------ text: crops


def corpus_of(activity="", num_samples=4 * RATE, file_rate=RATE):
    utts = [
        Utterance(f"{spk}-{n}", f"{spk}-{n}.wav", file_rate, num_samples, 100, spk, activity)
        for spk in "abc"
        for n in range(2)
    ]
    return Corpus(utts)


def dry(**changes):
    return {"noise_probability": 0, "target_absent": 0, **changes}


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.2])
def test_a_crop_fills_the_mixture_and_lies_in_its_utterance(speed):
    file_rate = 16000
    for mixture in draw(corpus_of(num_samples=4 * file_rate, file_rate=file_rate), 30, **dry(speed=speed)):
        for source in mixture.talkers:
            assert source.num_samples == pytest.approx(0.4 * file_rate * speed, abs=1)
            assert 100 <= source.start and source.start + source.num_samples <= 100 + 4 * file_rate
            assert source.offset == 0
        for source in mixture.enrolls:
            assert source.num_samples == pytest.approx(0.3 * file_rate * speed, abs=1)


def test_crops_hold_enough_speech():
    """3 of 4 seconds are pauses; at least half of every 0.4 s crop is speech all the same."""
    activity = "0" * 15 + "1" * 10 + "0" * 15
    starts = [
        source.start - 100
        for mixture in draw(corpus_of(activity), 60, **dry(min_activity=0.5))
        for source in (*mixture.talkers, *mixture.enrolls)
    ]
    shares = [np.mean([1.5 * RATE <= start + at < 2.5 * RATE for at in range(0, 2400, 80)]) for start in starts]
    assert np.mean(np.array(shares) >= 0.45) > 0.97  # 20 tries fail now and then; blocks are 100 ms
    assert len(set(starts)) > 50


def test_without_speech_enough_the_best_crop_is_taken():
    activity = "0" * 20 + "1" + "0" * 19
    with_speech = [
        source.start - 100 < 2.1 * RATE and source.start - 100 + source.num_samples > 2.0 * RATE
        for mixture in draw(corpus_of(activity), 40, **dry(min_activity=0.9))
        for source in mixture.talkers
    ]
    assert np.mean(with_speech) > 0.8  # by chance alone: 14 %


def test_a_short_utterance_is_taken_whole_and_begins_anywhere_inside():
    offsets = []
    for mixture in draw(corpus_of(num_samples=RATE // 5), 60, **dry()):
        for source in mixture.talkers:
            assert (source.start, source.num_samples) == (100, RATE // 5)
            assert 0 <= source.offset <= 0.4 * RATE - RATE // 5
            offsets.append(source.offset)
        assert all(source.offset == 0 for source in mixture.enrolls)
    assert min(offsets) < 200 and max(offsets) > 1400


# ------------------------------------------------------------------------------------------- text: who, when, where


def stretch(source):
    return source.offset, source.offset + round(source.num_samples / source.speed)


def test_a_target_that_is_there_for_a_part_of_the_time():
    begins = []
    for mixture in draw(corpus_of(), 60, **dry(target_presence=[0.25, 0.5], num_talkers=2)):
        (begin, end), (other_begin, other_end) = map(stretch, mixture.talkers)
        assert 0.25 * 3200 - 1 <= end - begin <= 0.5 * 3200 + 1 and 0 <= begin and end <= 3200
        assert mixture.talkers[0].fade_s == 0.05 and mixture.talkers[1].fade_s == 0
        assert (other_begin, other_end) == (0, 3200)
        begins.append(begin)
    assert min(begins) < 400 and max(begins) > 1600


def test_a_target_that_begins_when_it_is_told():
    for mixture in draw(corpus_of(), 10, **dry(target_presence=0.5, target_begin_s=0.1, num_talkers=2)):
        assert stretch(mixture.talkers[0]) == (800, 800 + 1600)


@pytest.mark.parametrize("presence", [1.0, 0.5])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75])
def test_an_interferer_covers_the_share_of_the_targets_stretch_that_was_asked(ratio, presence):
    sides = set()
    for mixture in draw(corpus_of(), 40, **dry(overlap_ratio=ratio, num_talkers=2, target_presence=presence)):
        (begin, end), (other_begin, other_end) = map(stretch, mixture.talkers)
        covered = max(0, min(end, other_end) - max(begin, other_begin))
        assert covered == pytest.approx(ratio * (end - begin), abs=2)
        assert other_begin == 0 or other_end == 3200 or ratio == 0
        sides.add(other_begin < begin)
    assert sides == {True, False} or presence == 1.0


def rooms_corpus(**sets):
    base = corpus_of()
    rirs = {
        name: [
            Utterance(f"{name}-{n}", f"{name}-{n}.wav", RATE, 400, group=f"{name}-room{n // 3}") for n in range(count)
        ]
        for name, count in sets.items()
    }
    return Corpus(base.speech, (), rirs)


def test_the_source_of_a_room_is_drawn_by_weight():
    corpus = rooms_corpus(real=3, simulated=30)
    mixtures = draw(corpus, 200, **dry(rir_probability=1, rir_sources={"real": 3, "simulated": 1}))
    names = [talker.rir.utt_id.split("-")[0] for mixture in mixtures for talker in mixture.talkers]
    assert names.count("real") / len(names) == pytest.approx(0.75, abs=0.06)
    with pytest.raises(ValueError, match="rir_sources: no set 'slr26' of room responses was given; there are: real"):
        draw(corpus, 1, **dry(rir_probability=1, rir_sources={"slr26": 1}))


def test_talkers_of_one_room_have_responses_of_their_own():
    for mixture in draw(rooms_corpus(a=12), 40, **dry(rir_probability=1, same_room=True, num_talkers=3)):
        assert len({talker.rir.room for talker in mixture.talkers}) == 1
        assert len({talker.rir.utt_id for talker in mixture.talkers}) == 3
    rooms = [
        {talker.rir.room for talker in mixture.talkers}
        for mixture in draw(rooms_corpus(a=12), 40, **dry(rir_probability=1, num_talkers=3))
    ]
    assert max(map(len, rooms)) == 3


def test_a_room_is_entered_with_what_was_said_before():
    for mixture in draw(rooms_corpus(a=3), 40, **dry(rir_probability=1, speed=[0.9, 1.1])):
        for talker in mixture.talkers:
            lead = -talker.offset
            assert 0 <= lead <= 400 and talker.start >= 100
            assert talker.num_samples == pytest.approx((3200 + lead) * talker.speed, abs=2)
            assert lead == 400 or talker.start <= 102  # as much as the room lets hear, or all there is


def test_an_enrolment_is_degraded_as_often_as_asked():
    corpus = dataclasses.replace(
        rooms_corpus(a=6), noise=[Utterance("hum-1", "hum.wav", RATE, 8 * RATE, group="kitchen")]
    )
    knobs = {"enroll_noise_probability": 0.3, "enroll_rir_probability": 0.5, "enroll_eq_probability": 0.8}
    mixtures = draw(corpus, 300, **dry(**knobs, enroll_snr_db=[3, 4], enroll_eq_db=[-2, 2]))
    enrolls = [mixture.enrolls[0] for mixture in mixtures]
    assert np.mean([enroll.noise is not None for enroll in enrolls]) == pytest.approx(0.3, abs=0.08)
    assert np.mean([enroll.rir is not None for enroll in enrolls]) == pytest.approx(0.5, abs=0.08)
    assert np.mean([enroll.eq_db != () for enroll in enrolls]) == pytest.approx(0.8, abs=0.07)
    assert all(
        3 <= enroll.noise.level_db <= 4 and enroll.noise.group == "kitchen" for enroll in enrolls if enroll.noise
    )
    assert all(
        len(enroll.eq_db) == len(EQ_HZ) and max(map(abs, enroll.eq_db)) <= 2 for enroll in enrolls if enroll.eq_db
    )
    assert not any(talker.rir for mixture in mixtures for talker in mixture.talkers)


def test_the_length_may_be_drawn(corpus):
    mixtures = draw(corpus, 40, segment_s=[0.3, 0.6], num_talkers=2)
    lengths = {mixture.num_samples for mixture in mixtures}
    assert 0.3 * RATE <= min(lengths) < 0.35 * RATE and 0.55 * RATE < max(lengths) <= 0.6 * RATE
    out = render(mixtures[0], load_waveforms(mixtures[0]))
    assert len(out.mixture) == len(out.targets[0]) == mixtures[0].num_samples


def test_speed_of_what_is_mixed_alone_and_now_and_then():
    mixtures = draw(corpus_of(), 200, **dry(speed=[0.8, 0.9], speed_enroll=False, speed_probability=0.25))
    speeds = [talker.speed for mixture in mixtures for talker in mixture.talkers]
    assert {enroll.speed for mixture in mixtures for enroll in mixture.enrolls} == {1.0}
    assert np.mean([speed != 1.0 for speed in speeds]) == pytest.approx(0.25, abs=0.07)


def test_the_channel_is_drawn_as_often_as_asked():
    knobs = {"clip_probability": 0.3, "band_limit_probability": 0.5, "band_limit_hz": [1000, 2000], "clip_db": [2, 3]}
    mixtures = draw(corpus_of(), 300, **dry(**knobs, num_freq_masks=[0, 2], freq_mask_hz=[100, 300]))
    limits = [mixture.band_limit_hz for mixture in mixtures if mixture.band_limit_hz]
    clips = [mixture.clip_db for mixture in mixtures if mixture.clip_db]
    assert len(limits) / 300 == pytest.approx(0.5, abs=0.08) and len(clips) / 300 == pytest.approx(0.3, abs=0.08)
    assert 1000 <= min(limits) and max(limits) <= 2000 and 2 <= min(clips) and max(clips) <= 3
    assert {len(mixture.masks) for mixture in mixtures} == {0, 1, 2}
    widths = [mask.end - mask.begin for mixture in mixtures for mask in mixture.masks]
    assert 99 < min(widths) and max(widths) < 301


def test_another_attempt_is_another_mixture_with_the_target_present_as_before(corpus):
    for number in range(30):
        first, second, again = (
            sample(corpus, conf_of(), RATE, 0, "train", f"m{number}", attempt) for attempt in (0, 1, 1)
        )
        assert second == again and second.mix_id == first.mix_id and second.talkers != first.talkers
        assert second.target_present == first.target_present


# ------------------------------------------------------------------------------------------------ errors


def test_more_talkers_than_speakers(corpus):
    with pytest.raises(ValueError, match="num_talkers: 6 different speakers needed, the set has 5"):
        draw(corpus, 1, num_talkers=6, target_absent=0)
    with pytest.raises(ValueError, match="num_talkers: 6 different speakers needed"):
        draw(corpus, 1, num_talkers=5, target_absent=1)


@pytest.mark.parametrize("knob", ["noise_probability", "rir_probability"])
def test_a_set_that_was_not_given(knob):
    with pytest.raises(ValueError, match=f"{knob} is above 0, but no set of"):
        draw(corpus_of(), 1, **{**dry(), knob: 0.5})


def test_too_few_speakers_or_utterances(tmp_path):
    tiny.write_set(tmp_path / "one", {"a-0": tiny.voice("a-0", 800), "a-1": tiny.voice("a-1", 800)})
    with pytest.raises(ValueError, match=r"1 speaker\(s\), at least 2"):
        read_corpus(tmp_path / "one")
    tiny.write_set(tmp_path / "two", {name: tiny.voice(name, 800) for name in ("a-0", "a-1", "b-0")})
    with pytest.raises(ValueError, match=r"1 speaker\(s\) with one utterance \(b…\)"):
        read_corpus(tmp_path / "two")


def test_a_speaker_a_noise_or_a_room_in_two_sets(corpus_dir, tmp_path):
    check_disjoint(corpus_dir, ["train", "dev_speech"])
    tiny.write_set(tmp_path / "one", {name: tiny.voice(name, 800) for name in ("a-0", "b-0")})
    tiny.write_set(tmp_path / "two", {name: tiny.voice(name, 800) for name in ("b-1", "c-0")})
    with pytest.raises(ValueError, match="'b' is in one and in two; sets must be disjoint"):
        check_disjoint(tmp_path, ["one", "two"])
    for name in ("noise_train", "noise_dev"):
        path = str(tmp_path / name / "clip.wav")
        write_data_dir(tmp_path / name, [Utterance(f"{name}-1", path, RATE, 800, group="kitchen")])
    with pytest.raises(ValueError, match="'kitchen' is in noise_dev and in noise_train"):
        check_disjoint(tmp_path, ["noise_dev", "noise_train"])
