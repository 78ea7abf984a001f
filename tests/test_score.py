"""Scoring from arrays and from files."""

import json

import numpy as np
import pytest
from scored_set import make_set, speech_like

from tests import tiny
from tse_lib import audio
from tse_lib.bin import score as score_verb
from tse_lib.bin.render import write_rendered
from tse_lib.config import Sets, build
from tse_lib.evaluation.results import presence_rows, quality_rows
from tse_lib.evaluation.score import conditions, find_estimate, score
from tse_lib.evaluation.summary import summarise
from tse_lib.manifest import Mixture, Source, audio_path, write_mixtures
from tse_lib.metrics import presence, sdr
from tse_lib.simulation.sample import sample_set

RATE = 8000
WITH_INTERFERER = {
    "si_sdr", "si_sdr_mixture", "si_sdri", "sdr", "sdr_mixture", "sdri", "sir", "sir_mixture", "siri",
    "sar", "sar_mixture", "pesq_nb", "pesq_nb_mixture", "pesq_nb_gain", "stoi", "stoi_mixture", "stoi_gain",
    "estoi", "estoi_mixture", "estoi_gain", "tp_attenuation_db", "confused", "above_1db",
}  # fmt: skip


@pytest.fixture
def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Target, interferer, noise."""
    rng = np.random.default_rng(5)
    target, interferer = speech_like(rng, 2 * RATE, RATE), speech_like(rng, 2 * RATE, RATE)
    return target, interferer, 0.005 * rng.standard_normal(2 * RATE)


# -------------------------------------------------------------------------------------------------------- from arrays


def test_a_good_estimate(parts):
    target, interferer, noise = parts
    mixture, estimate = target + interferer + noise, target + 0.1 * (interferer + noise)
    scores = score(target, estimate, mixture, RATE, [interferer], noisy=True)
    assert set(scores) == WITH_INTERFERER | {"sari"}
    assert scores["si_sdri"] == pytest.approx(20, abs=0.3)  # exactly 20 dB were it orthogonal to the target
    assert scores["si_sdr"] == pytest.approx(sdr.si_sdr(target, estimate), abs=1e-6)
    assert scores["sdri"] == pytest.approx(scores["sdr"] - scores["sdr_mixture"], abs=1e-5)
    assert scores["siri"] == pytest.approx(20, abs=0.5)
    # noise falls by 20 dB, and so does one of the two equally loud talkers that SAR compares it with
    assert scores["sari"] == pytest.approx(20 - 10 * np.log10(2), abs=0.2)
    assert scores["pesq_nb_gain"] > 0.5 and scores["estoi_gain"] > 0.05
    assert scores["confused"] is False and scores["above_1db"] is True
    assert scores["tp_attenuation_db"] == pytest.approx(presence.attenuation_db(mixture, estimate), abs=1e-6)


def test_the_mixture_itself_improves_nothing(parts):
    target, interferer, noise = parts
    mixture = target + interferer + noise
    scores = score(target, mixture, mixture, RATE, [interferer], noisy=True)
    improvements = ["si_sdri", "sdri", "siri", "sari", "pesq_nb_gain", "stoi_gain", "estoi_gain", "tp_attenuation_db"]
    assert [scores[name] for name in improvements] == [0] * len(improvements)
    assert scores["above_1db"] is False


def test_the_wrong_talker_is_confused(parts):
    target, interferer, noise = parts
    scores = score(target, interferer + 0.1 * target, target + interferer + noise, RATE, [interferer], noisy=True)
    assert scores["confused"] is True and scores["above_1db"] is False and scores["siri"] < -5


def test_without_interferers_nobody_can_be_confused(parts):
    target, _, noise = parts
    scores = score(target, target + 0.1 * noise, target + noise, RATE, noisy=True)
    assert set(scores) == WITH_INTERFERER - {"confused", "sir", "sir_mixture", "siri"} | {"sari"}


def test_without_noise_sar_has_no_improvement(parts):
    target, interferer, _ = parts
    assert "sari" not in score(target, target, target + interferer, RATE, [interferer])


@pytest.mark.parametrize(("gain", "attenuation", "accepted"), [(0.5, 6.0206, True), (0.01, 40, False), (0, 100, False)])
def test_absent_target(parts, gain, attenuation, accepted):
    _, interferer, noise = parts
    mixture = interferer + noise
    assert score(None, gain * mixture, mixture, RATE, [interferer]) == {
        "ta_attenuation_db": pytest.approx(attenuation, abs=1e-4),
        "false_accept": accepted,
    }


def test_a_silent_estimate_has_the_worst_si_sdr_and_reasons_for_the_rest(parts):
    target, interferer, noise = parts
    scores = score(target, np.zeros_like(target), target + interferer + noise, RATE, [interferer], noisy=True)
    assert scores["si_sdr"] == sdr.FLOOR_DB and scores["si_sdri"] < -40
    assert scores["tp_attenuation_db"] == presence.MAX_ATTENUATION_DB
    for name in ("sdr", "sdri", "siri", "pesq_nb", "pesq_nb_gain", "stoi", "estoi"):
        assert scores[name] is None and scores["reasons"][name] == "silent estimate"
    for name in ("sdr_mixture", "pesq_nb_mixture", "stoi_mixture"):  # the mixture's own are not lost with it
        assert scores[name] is not None and name not in scores["reasons"]


def test_too_short_for_the_perceptual_metrics(parts):
    target, interferer, noise = (part[:1000] for part in parts)
    scores = score(target, target + 0.1 * noise, target + interferer + noise, RATE, [interferer], noisy=True)
    assert scores["pesq_nb"] is scores["stoi"] is scores["estoi"] is None
    assert "Buffer" in scores["reasons"]["pesq_nb"] and "too short" in scores["reasons"]["stoi_gain"]
    assert scores["si_sdri"] > 5


def test_silence_in_the_reference_is_told(parts):
    _, interferer, noise = parts
    scores = score(np.zeros_like(noise), interferer, interferer + noise, RATE, [interferer], noisy=True)
    assert scores["si_sdr"] is scores["sdr"] is scores["confused"] is scores["above_1db"] is None
    assert scores["reasons"]["si_sdr"] == scores["reasons"]["confused"] == "silent reference"


# --------------------------------------------------------------------------------------------------------- conditions


def drawn(target: str, others: str, present: bool = True, **changes) -> Mixture:
    talkers = [Source("", 0, 1, gender=gender, level_db=2.0) for gender in ([target] if present else []) + [*others]]
    values = {"noise": Source("", 0, 1, level_db=7.5), **changes}
    return Mixture("m", RATE, 16000, present, tuple(talkers), (Source("", 0, 1, spk_id="s", gender=target),), **values)


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        (drawn("f", "m"), "different"),
        (drawn("f", "f"), "same"),
        (drawn("f", "mf"), "same"),
        (drawn("f", "mm"), "different"),
        (drawn("f", ["m", ""]), None),
        (drawn("f", ""), None),
        (drawn("f", "f", present=False), "same"),
        (drawn("f", "mm", present=False), "different"),
    ],
)
def test_same_gender(mixture, expected):
    assert conditions(mixture, {})["same_gender"] == expected


def test_genders_come_from_the_set_where_the_source_has_none():
    mixture = Mixture(
        "m", RATE, 8000, True, tuple(Source("", 0, 1, spk_id=spk) for spk in "ab"), (Source("", 0, 1, spk_id="a"),)
    )
    assert conditions(mixture, {"a": "f", "b": "f"})["same_gender"] == "same"
    assert conditions(mixture, {"a": "f"})["same_gender"] is None


def test_conditions():
    assert conditions(drawn("f", "mm"), {}) == {
        "target_spk": "s", "target_present": True, "num_talkers": 3, "same_gender": "different", "sir_db": [2.0, 2.0],
        "noise": True, "snr_db": 7.5, "reverberant": False, "num_enrolls": 1, "seconds": 2.0,
    }  # fmt: skip
    quiet = conditions(drawn("f", "", noise=None), {})
    assert quiet["noise"] is False and quiet["snr_db"] is None and quiet["sir_db"] == []


# --------------------------------------------------------------------------------------------------------- from files


def run(tmp_path, job="1/1", *more) -> list[dict]:
    folders = {"--data": "data", "--est": "wav", "--out": "part"}
    words = [word for option, name in folders.items() for word in (option, str(tmp_path / name))]
    score_verb.main([*words, "--job", job, *more])
    part = tmp_path / "part" / f"{job.replace('/', 'of')}.jsonl"
    return [json.loads(line) for line in part.read_text(encoding="utf-8").splitlines()]


def test_the_shares_make_the_whole(tmp_path):
    make_set(tmp_path / "data", tmp_path / "wav", num_mixtures=5, absent=(1, 3), confused=(4,), name="mély ")
    whole = run(tmp_path)
    assert [line["mix_id"] for line in whole] == [f"mély 00{index}" for index in range(5)]
    assert whole[0]["si_sdri"] == pytest.approx(20, abs=0.5)
    assert [line.get("confused") for line in whole] == [False, None, False, None, True]
    assert [line.get("false_accept") for line in whole] == [None, True, None, False, None]
    assert run(tmp_path, "1/2") == whole[::2]
    assert not (tmp_path / "part" / "1of1.jsonl").exists()  # of another number of jobs
    assert run(tmp_path, "2/2") == whole[1::2]
    assert {part.name for part in (tmp_path / "part").iterdir()} == {"1of2.jsonl", "2of2.jsonl"}


def test_a_share_leaves_alone_what_another_is_writing(tmp_path):
    """The random part of a temporary name may read like that of a share."""
    make_set(tmp_path / "data", tmp_path / "wav", num_mixtures=2)
    (tmp_path / "part").mkdir()
    writing = tmp_path / "part" / ".partial-2wqj04of.jsonl"
    writing.touch()
    run(tmp_path, "1/2")
    assert writing.exists()


def test_a_share_that_fails_takes_no_scores_away(tmp_path):
    make_set(tmp_path / "data", tmp_path / "wav", num_mixtures=2)
    run(tmp_path, "1/2")
    with pytest.raises(ValueError, match="--museval: of stems only"):
        run(tmp_path, "1/1", "--museval")
    assert [part.name for part in (tmp_path / "part").iterdir()] == ["1of2.jsonl"]


def test_a_share_with_a_leading_zero_is_found_by_the_results(tmp_path):
    make_set(tmp_path / "data", tmp_path / "wav", num_mixtures=2)
    with pytest.raises(FileNotFoundError, match="01of02"):
        run(tmp_path, "01/02")
    assert [part.name for part in (tmp_path / "part").iterdir()] == ["1of2.jsonl"]


def test_a_target_that_speaks_for_a_part_is_judged_by_frames(tmp_path, corpus_dir):
    """Of two mixtures, each with the target from 0.4 to 1.4 s of 2 s, one output is the target, one the mixture."""
    drawing = {**tiny.SIMULATION, "segment_s": 2.0, "target_absent": 0, "num_talkers": 2}
    drawing |= {"target_presence": 0.5, "target_begin_s": 0.4}
    chosen = {"num_mixtures": 2, "speech": "dev_speech", "noise": "noise_dev", "simulation": drawing}
    sets = build(Sets, {"seed": 3, "sample_rate": RATE, "sets": {"test": chosen}}, "tiny")
    _, mixtures = sample_set(corpus_dir, "test", sets)
    write_mixtures(tmp_path / "data" / "mixtures.jsonl", mixtures)
    for mixture, kind in zip(mixtures, ("target", "mixture"), strict=True):
        write_rendered(str(tmp_path / "data"), mixture)
        wave = audio.read(audio_path(tmp_path / "data", kind, mixture.mix_id))[0]
        audio.write(tmp_path / "wav" / f"{mixture.mix_id}.wav", wave, RATE)
    perfect, idle = run(tmp_path)
    assert perfect["frame_false_accept"] == perfect["frame_false_reject"] == 0
    assert perfect["frame_attenuation_db"] > 20 and perfect["frame_contrast_db"] > 20
    assert perfect["stretch_si_sdr"] == sdr.CEILING_DB and perfect["stretch_si_sdri"] > 50
    assert idle["frame_false_accept"] == 1 and idle["frame_attenuation_db"] == 0 and idle["stretch_si_sdri"] == 0
    assert idle["stretch_si_sdr"] > idle["si_sdr"]  # nothing is disturbed by what lies outside
    metrics = summarise([perfect, idle])["metrics"]
    assert metrics["frame_false_accept_rate"]["mean"] == 0.5
    shown = {row[0]: row[1] for row in presence_rows(metrics)}
    assert shown["frames before and after, louder than mixture - 20 dB (false accept)"].startswith("50.0 %")
    assert quality_rows(metrics)[-1][0] == "SI-SDR of the stretch in which the target speaks (dB)"


def test_who_speaks_all_the_time_is_not(tmp_path):
    make_set(tmp_path / "data", tmp_path / "wav", num_mixtures=1)
    assert not [name for name in run(tmp_path)[0] if name.startswith(("frame_", "stretch_"))]


def test_flac_or_wav_but_not_both(tmp_path):
    make_set(tmp_path / "data", tmp_path / "wav", num_mixtures=1)
    wav = tmp_path / "wav" / "mix000.wav"
    expected = run(tmp_path)
    audio.write(wav.with_suffix(".flac"), audio.read(wav)[0], RATE)
    with pytest.raises(ValueError, match=r"mix000.flac: there is also a mix000.wav"):
        find_estimate(tmp_path / "wav", "mix000")
    wav.unlink()
    assert run(tmp_path)[0]["si_sdr"] == pytest.approx(expected[0]["si_sdr"], abs=1e-3)


def test_missing_estimates_are_told_before_any_work(tmp_path):
    make_set(tmp_path / "data", tmp_path / "wav", num_mixtures=3)
    for name in ("mix001.wav", "mix002.wav"):
        (tmp_path / "wav" / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"mix001.flac: no estimate .*\(1 more are missing\)"):
        run(tmp_path)
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x[:-10], RATE), r"mix000.wav: 11990 samples, the mixture has 12000 \(-10\)"),
        (lambda x: (x, 16000), r"mix000.wav: 16000 Hz, the mixture has 8000 Hz"),
        (lambda x: (np.stack([x, x]), RATE), r"mix000.wav: 2 channels, one is wanted"),
    ],
)
def test_estimates_that_do_not_fit_are_refused(tmp_path, change, message):
    make_set(tmp_path / "data", tmp_path / "wav", num_mixtures=1)
    path = tmp_path / "wav" / "mix000.wav"
    audio.write(path, *change(audio.read(path)[0]))
    with pytest.raises(ValueError, match=message):
        run(tmp_path)
    assert not list((tmp_path / "part").glob("*"))  # no half part


def test_nan_in_an_estimate_is_refused(tmp_path):
    import soundfile

    make_set(tmp_path / "data", tmp_path / "wav", num_mixtures=1)
    path = tmp_path / "wav" / "mix000.wav"
    broken = audio.read(path)[0]
    broken[100] = np.nan
    soundfile.write(path, broken, RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"mix000.wav: holds NaN"):
        run(tmp_path)


def test_a_missing_reference_is_named(tmp_path):
    make_set(tmp_path / "data", tmp_path / "wav", num_mixtures=1)
    audio_path(tmp_path / "data", "interferer1", "mix000").unlink()
    with pytest.raises(FileNotFoundError, match=r"interferer1/mix000.flac"):
        run(tmp_path)
