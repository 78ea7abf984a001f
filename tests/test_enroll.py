"""Enrolments at inference: profiles in files, averages of several, the presence of the talker and the gate."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import yaml

import tse_lib
from tests import test_spex_plus, test_td_speakerbeam, tiny
from tests.recipe_folder import ROOT
from tests.scored_set import make_set
from tse_lib import audio
from tse_lib.bin import calibrate
from tse_lib.bin.calibrate import examples
from tse_lib.bin.main import main
from tse_lib.bin.render import write_rendered
from tse_lib.config import Calibration, Choice, Deployed, Sets, build
from tse_lib.data.dataset import RenderedMixtures
from tse_lib.evaluation.results import presence_rows
from tse_lib.evaluation.score import score
from tse_lib.evaluation.summary import summarise
from tse_lib.inference.extractor import Extractor
from tse_lib.inference.gate import gate, open_seconds
from tse_lib.inference.profile import load_profile
from tse_lib.manifest import read_data_dir, write_embeddings, write_mixtures
from tse_lib.metrics import detection
from tse_lib.models import build_model
from tse_lib.simulation.sample import sample_set

RATE = tiny.RATE
MIXTURE = tiny.voice("a-0", 4000) + tiny.voice("b-0", 4000)
ENROLLS = [tiny.voice("a-1", 3000), tiny.voice("a-2", 2000)]


@pytest.fixture(scope="module")
def extractor(checkpoint_path):
    return tse_lib.load(checkpoint_path)


@pytest.fixture
def profile_path(tmp_path, extractor):
    extractor.enroll(ENROLLS, RATE, ["some/where/a-1.wav", "a-2.wav"]).save(tmp_path / "a.npz")
    return tmp_path / "a.npz"


# ------------------------------------------------------------------------------------------------------------ profiles


def test_a_profile_extracts_as_its_enrolments_do(extractor, profile_path):
    profile = tse_lib.load_profile(profile_path)
    assert np.array_equal(extractor.extract(MIXTURE, profile, RATE), extractor.extract(MIXTURE, ENROLLS, RATE))
    assert profile.files == ("a-1.wav", "a-2.wav") and profile.seconds == pytest.approx(5000 / RATE)
    assert (profile.network, profile.sample_rate) == ("hifi_tse", RATE)


@pytest.mark.parametrize(
    ("name", "params"), [("spex_plus", test_spex_plus.SMALL), ("td_speakerbeam", test_td_speakerbeam.SMALL)]
)
def test_a_profile_of_a_vector(name, params, tmp_path):
    conf = Deployed(sample_rate=RATE, model=Choice(name=name, params=params))
    extractor = Extractor(build_model(name, params, RATE), conf)
    extractor.enroll(ENROLLS, RATE).save(tmp_path / "a.npz")
    estimate = extractor.extract(MIXTURE, load_profile(tmp_path / "a.npz"), RATE)
    assert np.array_equal(estimate, extractor.extract(MIXTURE, ENROLLS, RATE))


def test_old_numpy_takes_every_word_for_an_array(tmp_path, monkeypatch, profile_path):
    """`allow_pickle` of numpy.savez came with numpy 2.2: before, it is one more array, and the file no profile."""
    profile, savez = load_profile(profile_path), np.savez

    def as_in_numpy_2_1(file, **arrays):
        assert "allow_pickle" not in arrays
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", as_in_numpy_2_1)
    profile.save(tmp_path / "b.npz")
    write_embeddings(tmp_path, {"a": np.zeros(3)})


def test_the_verbs_make_and_use_a_profile(tmp_path, checkpoint_path, capsys):
    paths = write_waves(tmp_path, mixture=MIXTURE, a1=ENROLLS[0], a2=ENROLLS[1])
    profile, model = str(tmp_path / "out" / "a.npz"), ["--model", str(checkpoint_path)]
    assert main(["enroll", paths["a1"], paths["a2"], *model, "-o", profile]) == 0
    assert "0.6 s of 2 recording(s)" in capsys.readouterr().out
    for name, enrolls in (("x", [profile]), ("y", [paths["a1"], paths["a2"]])):
        words = ["extract", paths["mixture"], "--enroll", *enrolls, *model, "-o", str(tmp_path / f"{name}.wav")]
        assert main(words) == 0
    assert (tmp_path / "x.wav").read_bytes() == (tmp_path / "y.wav").read_bytes()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.npz"]


def test_other_weights_are_another_model(tmp_path, extractor, profile_path, capsys):
    assert tse_lib.load(tiny.make_checkpoint(tmp_path / "same.pt")).fingerprint == extractor.fingerprint
    other = Extractor(tiny.make_model(1), extractor.conf)
    with pytest.raises(ValueError, match="of another model .* tse enroll a-1.wav a-2.wav again with this one"):
        other.extract(MIXTURE, load_profile(profile_path), RATE)
    conf = extractor.conf.model_copy(update={"sample_rate": 16000})
    assert Extractor(extractor.model, conf).fingerprint != extractor.fingerprint


def rewrite(path, **changes):
    """The arrays of a profile with some changed, and those left out that are None."""
    with np.load(path) as file:
        arrays = {**file, **{name.replace("__", "."): value for name, value in changes.items()}}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


FRAMES = np.zeros((1, 9, 4, 8), np.float32)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:700]), "cut short, damaged or no profile"),
        (lambda path: path.write_bytes(flipped(path.read_bytes())), "cut short, damaged or no profile.*CRC"),
        (lambda path: path.write_bytes(b""), "cut short, damaged or no profile"),
        (lambda path: path.write_bytes(b"RIFF" + bytes(5000)), "cut short, damaged or no profile"),
        (lambda path: np.savez(path, a=np.ones(3)), r"not a profile of `tse enroll` \(wrong or missing: a, files"),
        (lambda path: rewrite(path, model=None), "wrong or missing: model"),
        (lambda path: rewrite(path, condition__frames=None), r"missing: condition\.\*"),
        (lambda path: rewrite(path, extra=np.ones(1)), "wrong or missing: extra"),
        (lambda path: rewrite(path, seconds=np.array("long")), "'seconds' is <U4"),
        (lambda path: rewrite(path, version=np.array(2)), "profile version 2, this release reads 1"),
        (lambda path: rewrite(path, files=np.array(["a", {}], object)), "cut short, damaged or no profile.*pickle"),
        (lambda path: rewrite(path, condition__frames=FRAMES * np.nan), "'frames' holds NaN"),
        (lambda path: rewrite(path, condition__frames=FRAMES.repeat(2, 0)), r"'frames' is float32 of shape \(2, 9"),
        (lambda path: rewrite(path, condition__frames=FRAMES.astype(np.int64)), "'frames' is int64"),
        (lambda path: packed_tight(path), r"model\.npy is compressed"),
        # what could be a profile, but of no model like this one
        (lambda path: rewrite(path, condition__frames=FRAMES[..., :7]), r"shape \(1, 9, 4, 7\); the model makes"),
        (lambda path: rewrite(path, condition__frames=FRAMES.astype(float)), "'frames' is torch.float64"),
        (lambda path: rewrite(path, condition__frames=FRAMES[0]), "'frames' is float32 of shape|makes torch.float32"),
        (lambda path: rewrite(path, condition__other=FRAMES), "holds frames, other; the model makes frames"),
    ],
)  # fmt: skip
def test_files_that_are_no_profile(tmp_path, checkpoint_path, profile_path, capsys, change, told):
    paths = write_waves(tmp_path, mixture=MIXTURE)
    change(profile_path)
    words = ["extract", paths["mixture"], "--enroll", str(profile_path), "--model", str(checkpoint_path)]
    assert main([*words, "-o", str(tmp_path / "o.wav")]) == 4
    message = capsys.readouterr().err
    assert re.search(told, message) and str(profile_path) in message
    assert message.count("\n") == 1 and not (tmp_path / "o.wav").exists()


def flipped(content):
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def packed_tight(path):
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("model.npy", *(set(parts) - {"model.npy"})):
            archive.writestr(name, parts[name])


def test_enrolments_of_any_length_make_a_profile(extractor, profile_path):
    rewrite(profile_path, condition__frames=FRAMES)
    assert extractor.extract(MIXTURE, load_profile(profile_path), RATE).shape == MIXTURE.shape


def test_profiles_that_cannot_be_written(tmp_path, checkpoint_path, capsys):
    paths = write_waves(tmp_path, a=ENROLLS[0])
    words = ["enroll", paths["a"], "--model", str(checkpoint_path), "-o"]
    assert main([*words, str(tmp_path / "a.pt")]) == 4 and "a profile is a .npz file" in capsys.readouterr().err
    assert main([*words[:1], "nowhere.wav", *words[2:], str(tmp_path / "a.npz")]) == 3
    write_waves(tmp_path, a=ENROLLS[0] * 0)
    assert main([*words, str(tmp_path / "a.npz")]) == 4 and f"{paths['a']}: silent" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.npz"))


def write_waves(folder, **waves):
    for name, wave in waves.items():
        audio.write(folder / f"{name}.wav", wave, RATE)
    return {name: str(folder / f"{name}.wav") for name in waves}


# ------------------------------------------------------------------------------------------------------------ averages


def test_estimates_are_averaged(extractor, profile_path):
    alone = [extractor.extract(MIXTURE, one, RATE) for one in ENROLLS]
    average = extractor.extract(MIXTURE, ENROLLS, RATE, average="estimates")
    np.testing.assert_allclose(average, np.mean(alone, 0), atol=1e-6)
    assert not np.allclose(average, extractor.extract(MIXTURE, ENROLLS, RATE), atol=1e-4)
    profile = load_profile(profile_path)
    mixed = extractor.extract(MIXTURE, [profile, ENROLLS[0]], RATE, average="estimates")
    np.testing.assert_allclose(mixed, (extractor.extract(MIXTURE, profile, RATE) + alone[0]) / 2, atol=1e-6)
    with pytest.raises(ValueError, match="a profile is complete: alone, or with others only where estimates"):
        extractor.extract(MIXTURE, [profile, ENROLLS[0]], RATE)
    with pytest.raises(ValueError, match="no enrolment was given"):
        extractor.extract(MIXTURE, [], RATE, average="estimates")


# ------------------------------------------------------------------------------------------------------------ presence


def test_seconds_and_their_attenuation():
    mixture = np.random.default_rng(0).standard_normal((2, 3 * RATE + 3000)).astype(np.float32) * 0.1
    estimate = mixture.copy()
    estimate[:, RATE : 2 * RATE] *= 0.1
    assert detection.seconds_of(mixture.shape[1], RATE).tolist() == [0, RATE, 2 * RATE, 3 * RATE + 3000]
    assert detection.seconds_of(100, RATE).tolist() == [0, 100]
    own, around = detection.features(mixture, estimate, RATE).T
    np.testing.assert_allclose(own, [0, 20, 0], atol=1e-5)
    assert 0 < around[2] < around[0] < 3.1 and around[0] < around[1] + 3
    mixture[:, :RATE] = 0
    estimate[:, 2 * RATE :] = 0
    own, around = detection.features(mixture, estimate, RATE).T
    assert np.isnan(own[0]) and np.isnan(around[0]) and own[2] == detection.LIMIT_DB


def test_whether_the_target_speaks():
    noise = np.random.default_rng(0).standard_normal(4 * RATE) * 0.01
    target = np.zeros(4 * RATE)
    target[RATE // 2 : RATE] = 0.1 * np.sin(np.arange(RATE // 2))  # half of the first second
    target[2 * RATE : 2 * RATE + 800] = target[RATE // 2 : RATE // 2 + 800]  # a tenth of the third
    np.testing.assert_array_equal(detection.truth(target, noise + target, RATE), [1, 0, np.nan, 0])
    np.testing.assert_array_equal(detection.truth(None, noise, RATE), [0, 0, 0, 0])
    np.testing.assert_array_equal(detection.truth(None, 0 * noise, RATE), [np.nan] * 4)


def test_the_fit_finds_the_odds_that_made_the_data():
    draw = np.random.default_rng(0)
    present = draw.random(20000) < 0.2
    own = np.where(present, 5.0, 15.0) + 5 * draw.standard_normal(20000)  # two normal laws: log odds (10 - x) * 0.4
    inputs = np.stack([own, draw.standard_normal(20000)], 1)
    inputs[:5], speaks = np.nan, present.astype(float)
    speaks[5:10] = np.nan
    found = detection.fit(inputs, speaks)
    assert found.weights == pytest.approx((-0.4, 0), abs=0.03) and found.bias == pytest.approx(4, abs=0.3)
    assert found.threshold == pytest.approx(0.5, abs=0.05)  # both kinds count alike, though one is rarer
    assert found.equal_error_rate == pytest.approx(0.1587, abs=0.015)  # beyond one standard deviation
    assert found.seconds_present + found.seconds_absent == 19990


@pytest.mark.parametrize(("kind", "told"), [(1.0, "in which it does not"), (0.0, "in which the target speaks")])
def test_seconds_of_one_kind_cannot_calibrate(kind, told):
    with pytest.raises(ValueError, match=f"no second {told}, 4 of the other kind"):
        detection.fit(np.ones((4, 2)), np.full(4, kind))


def calibration_of(extractor, **changes):
    values = {"model": extractor.fingerprint, "weights": (-1, 0), "bias": 10, "threshold": 0.5}
    values |= {"equal_error_rate": 0.1, "seconds_present": 3, "seconds_absent": 4, "data": "dev"}
    return Calibration(**(values | changes))


def test_the_errors_of_seconds(extractor):
    target = np.repeat([0.1, 0.1, 0, 0, 0], RATE) * np.tile([1, -1], 5 * RATE // 2)
    mixture = target + 0.1 * np.random.default_rng(0).standard_normal(5 * RATE)
    estimate = np.repeat([1, 0.1, 0.1, 1, 0.1], RATE) * mixture  # 0 or 20 dB: 10 dB tells them apart
    wrong = detection.error_rates(target, estimate, mixture, RATE, calibration_of(extractor))
    assert wrong == {"presence_false_accept": pytest.approx(1 / 3), "presence_false_reject": pytest.approx(1 / 2)}
    absent = detection.error_rates(None, estimate, mixture, RATE, calibration_of(extractor))
    assert absent == {"presence_false_accept": pytest.approx(2 / 5)}
    silent = detection.probabilities(0 * mixture, 0 * mixture, RATE, calibration_of(extractor))
    assert silent.tolist() == [0] * 5


def test_calibrate_beside_a_checkpoint_and_in_a_packed_model(tmp_path, corpus_dir, capsys):
    path = tiny.make_checkpoint(tmp_path / "exp" / "best.pt")
    with pytest.raises(ValueError, match="not calibrated.*tse calibrate"):
        tse_lib.load(path).presence(MIXTURE, MIXTURE, RATE)
    assert main(["export", "--model", str(path), "--out", str(tmp_path / "model")]) == 0
    for model in (path, tmp_path / "model"):
        assert main(["calibrate", "--model", str(model), "--data", str(corpus_dir / "dev")]) == 0
    assert "equal error rate" in capsys.readouterr().out
    beside, inside = tse_lib.load(path), tse_lib.load(tmp_path / "model")
    assert beside.calibration == inside.calibration and beside.calibration.data == "dev"
    assert yaml.safe_load((tmp_path / "exp" / "calibration.yaml").read_text())["model"] == beside.fingerprint
    assert main(["export", "--model", str(path), "--out", str(tmp_path / "again")]) == 0
    assert tse_lib.load(tmp_path / "again").calibration == beside.calibration
    with pytest.raises(ValueError, match="calibrated with other weights"):
        Extractor(tiny.make_model(1), beside.conf).presence(MIXTURE, MIXTURE, RATE)


def test_a_calibration_that_cannot_be_written_is_told_before_it_is_made(tmp_path, corpus_dir, capsys, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Extractor, "extract", None)
    monkeypatch.setattr(calibrate, "require_writable", refuse)  # root may write anywhere
    path = tiny.make_checkpoint(tmp_path / "best.pt")
    assert main(["calibrate", "--model", str(path), "--data", str(corpus_dir / "dev")]) == 1
    assert f"{tmp_path}/calibration.yaml: Permission denied" in capsys.readouterr().err


def test_calibrate_extracts_with_those_who_are_not_there(corpus_dir):
    mixtures = RenderedMixtures(str(corpus_dir / "dev"), RATE)
    found = list(examples(mixtures))
    assert len(found) > len(mixtures)
    by_enrolment = {
        one["enrolls"][0].numpy().tobytes(): mix for one, mix in zip(mixtures, mixtures.mixtures, strict=False)
    }
    by_mixture = {one["mixture"].numpy().tobytes(): mix for one, mix in zip(mixtures, mixtures.mixtures, strict=False)}
    for wave, enrolls, target in found:
        talkers = {source.spk_id for source in by_mixture[wave.numpy().tobytes()].talkers}
        wanted = by_enrolment[enrolls[0].numpy().tobytes()].enrolls[0].spk_id
        assert (target is not None) == (wanted in talkers)


def test_presence_and_gate_of_the_verb(tmp_path, capsys):
    path = tiny.make_checkpoint(tmp_path / "best.pt")
    extractor = tse_lib.load(path)
    waves = write_waves(tmp_path, mixture=np.tile(MIXTURE, 5), a=ENROLLS[0])
    words = ["extract", waves["mixture"], "--enroll", waves["a"], "--model", str(path), "-o"]
    assert main([*words, str(tmp_path / "plain.wav")]) == 0
    for option in (["--gate"], ["--presence", str(tmp_path / "p.json")]):
        assert main([*words, str(tmp_path / "no.wav"), *option]) == 4
        assert f"{path}: the model was not calibrated" in capsys.readouterr().err
    assert not (tmp_path / "no.wav").exists()
    for bias, share in ((1e6, 1.0), (-1e6, 0.0)):
        with open(tmp_path / "calibration.yaml", "w") as file:
            yaml.safe_dump(calibration_of(extractor, bias=bias).model_dump(mode="json"), file)
        gated = str(tmp_path / "gated.wav")
        assert main([*words, gated, "--gate", "--presence", str(tmp_path / "p.json")]) == 0
        told = json.loads((tmp_path / "p.json").read_text())
        assert told == {"threshold": 0.5, "probability": [share] * 2}  # 2.5 s: a half second belongs to the last
        expected = audio.read(tmp_path / "plain.wav")[0] * share
        assert np.array_equal(audio.read(gated)[0], expected)
    assert main([*words, str(tmp_path / "x.wav"), "--presence", waves["a"]]) == 4
    assert "would overwrite an input" in capsys.readouterr().err


def test_a_broken_calibration_is_told(tmp_path):
    path = tiny.make_checkpoint(tmp_path / "best.pt")
    (tmp_path / "calibration.yaml").write_text("model: x\nbias: .nan\n")
    with pytest.raises(ValueError, match="calibration.yaml: the key 'weights' is missing"):
        tse_lib.load(path)


# ------------------------------------------------------------------------------------------------------------ the gate


def test_the_gate_fades_outside_of_the_seconds():
    wave = np.ones((2, 4 * RATE), np.float32)
    gated = gate(wave, np.array([0, 1, 0, 0]), 0.5, RATE)
    assert gated.dtype == np.float32 and np.array_equal(gated[0], gated[1])
    fade = RATE // 20
    assert (gated[0, RATE : 2 * RATE] == 1).all()
    assert not gated[0, : RATE - fade].any() and not gated[0, 2 * RATE + fade :].any()
    rising, falling = gated[0, RATE - fade : RATE], gated[0, 2 * RATE : 2 * RATE + fade]
    assert (np.diff(rising) > 0).all() and np.array_equal(rising, falling[::-1]) and 0 < rising[0] < 2 / fade
    assert np.abs(np.diff(gated[0])).max() < 2 / fade
    assert np.array_equal(gate(wave[0], np.ones(4), 0.5, RATE), wave[0])


def test_the_gate_has_the_seconds_that_were_judged():
    """1.49998 s are one second at 44.1 kHz, and two where they were resampled to the model's rate."""
    wave = 0.1 * np.ones(66149, np.float32)
    assert gate(wave, np.ones(2), 0.5, 44100).all() and gate(wave, np.ones(1), 0.5, 44100).all()
    gated = gate(wave, np.array([0, 1]), 0.5, 44100)
    assert gated[44100:].all() and not gated[:41000].any()


def test_an_open_gate_stays_open():
    open_or_not = open_seconds(np.array([0.4, 0.5, 0.3, 0.26, 0.24, 0.4, 0.6]), 0.5)
    assert open_or_not.tolist() == [False, True, True, True, False, False, True]


# -------------------------------------------------------------------------------------------------------- in a recipe


def test_scores_of_presence_reach_the_results(tmp_path, extractor):
    target, other = (np.repeat([level, 0], RATE) * np.tile([1, -1], RATE) for level in (0.1, 0.05))
    mixture = target + other + 0.02 * np.random.default_rng(0).standard_normal(2 * RATE)
    rejecting = calibration_of(extractor, bias=-1e6)
    present = score(target, mixture, mixture, RATE, calibration=rejecting)
    absent = score(None, mixture, mixture, RATE, calibration=calibration_of(extractor, bias=1e6))
    assert present["presence_false_reject"] == 1.0 and present["presence_false_accept"] == 0.0
    assert absent["presence_false_accept"] == 1.0 and "presence_false_reject" not in absent
    assert not {"presence_false_accept", "presence_false_reject"} & set(score(target, mixture, mixture, RATE))
    about = {"target_spk": "a", "num_talkers": 2, "num_enrolls": 1, "noise": True, "reverberant": False}
    about["same_gender"] = None
    lines = [{"mix_id": mix_id, "target_present": there, **about, **scores}
             for mix_id, there, scores in (("x", True, present), ("y", False, absent))]  # fmt: skip
    metrics = summarise(lines)["metrics"]
    assert metrics["presence_false_accept_rate"]["mean"] == 0.5 and metrics["presence_false_accept_rate"]["n"] == 2
    rows = {label: value for label, value, _ in presence_rows(metrics)}
    assert rows["seconds with it, judged absent at the calibrated threshold"].startswith("100.0 %")


def test_the_verb_scores_with_a_calibration(tmp_path, extractor):
    make_set(tmp_path / "test", tmp_path / "wav", num_mixtures=2, absent=(1,))
    with open(tmp_path / "c.yaml", "w") as file:
        yaml.safe_dump(calibration_of(extractor, bias=1e6).model_dump(mode="json"), file)
    words = ["--data", str(tmp_path / "test"), "--est", str(tmp_path / "wav"), "--out", str(tmp_path / "parts")]
    assert main(["score", *words, "--calibration", str(tmp_path / "c.yaml")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "parts" / "1of1.jsonl").read_text().splitlines()]
    assert [line.get("presence_false_accept") for line in lines] == [None, 1.0]
    assert lines[0]["presence_false_reject"] == 0.0


def test_only_extractions_are_calibrated(tmp_path):
    """In the recipes: a stage where the conf has enrolments, none of a separation."""
    for recipe in ("mini/tse1", "mini/sep1"):
        folder = tmp_path / "egs" / recipe
        shutil.copytree(ROOT / "egs" / recipe, folder, ignore=shutil.ignore_patterns("data", "exp"))
    shutil.copytree(ROOT / "utils", tmp_path / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("path.sh", "cmd.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    stages = {}
    for recipe in ("mini/tse1", "mini/sep1"):
        command = [tmp_path / "egs" / recipe / "run.sh", "--list_stages"]
        stages[recipe] = subprocess.run(
            command, env={**os.environ, "TSE_PYTHON": sys.executable}, check=True, capture_output=True, text=True
        ).stdout
    assert " 5  calibrate\n" in stages["mini/tse1"] and "calibrate" not in stages["mini/sep1"]


def test_the_tool_measures_enrolments_and_the_swap(tmp_path, corpus_dir, capsys):
    tool = importlib.util.spec_from_file_location("enrolments", ROOT / "tools" / "enrolments.py")
    enrolments = importlib.util.module_from_spec(tool)
    tool.loader.exec_module(enrolments)
    simulation = {**tiny.SIMULATION, "segment_s": 1.0, "num_enrolls": 2, "num_talkers": 2}
    made = {"num_mixtures": 3, "num_absent": 1, "speech": "dev_speech", "noise": "noise_dev", "simulation": simulation}
    sets = build(Sets, {"seed": 3, "sample_rate": RATE, "sets": {"many": made}}, "tiny")
    _, mixtures = sample_set(corpus_dir, "many", sets)
    write_mixtures(tmp_path / "many" / "mixtures.jsonl", mixtures)
    for mixture in mixtures:
        write_rendered(str(tmp_path / "many"), mixture)
    utterances = {utt.utt_id: utt for utt in read_data_dir(corpus_dir / "dev_speech")}
    for mixture in mixtures:
        if mixture.target_present:
            spk_id = mixture.interferers[0].spk_id
            own = [utt for utt in utterances.values() if utt.spk_id == spk_id]
            wave = enrolments.enrolment_of_interferer(mixture, own)
            whole = {utt.utt_id: audio.read(utt.path)[0] for utt in own}
            taken = [utt_id for utt_id, full in whole.items() if np.array_equal(full[: len(wave)], wave)]
            assert len(taken) == 1 and taken[0] != mixture.interferers[0].utt_id
    path = tiny.make_checkpoint(tmp_path / "best.pt")
    assert main(["calibrate", "--model", str(path), "--data", str(tmp_path / "many")]) == 0
    extractor = tse_lib.load(path)
    lines = enrolments.of_enrolments(extractor, str(tmp_path / "many"), str(corpus_dir / "dev_speech"), [1, 2])
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| 1", "| 2", "| 2"]
    assert "2 mixtures with an enrolment of an interferer" in lines[6]
    assert "| 2 present, 1 absent targets | output | gated |" in enrolments.of_absent(extractor, str(tmp_path / "many"))
