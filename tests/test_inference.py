"""Extraction of whole recordings: chunks, rates, channels, and what is loaded."""

import warnings

import numpy as np
import pytest
import torch

import tse_lib
from tests import tiny
from tse_lib import audio, checkpoint
from tse_lib.config import Inference
from tse_lib.export.pack import pack
from tse_lib.inference.chunked import infer
from tse_lib.training.state import new_state


def test_infer_chunks_with_one_condition():
    model = tiny.make_model().eval()
    mixture = torch.randn(2, 1500, generator=torch.manual_seed(0))
    with torch.no_grad():
        condition = model.encode(torch.randn(1, 1, 500, generator=torch.manual_seed(1)))
        whole = model(mixture[None], condition)[0]
    chunked = [infer(model, mixture, condition, Inference(chunk_s=0.05, batch_size=size), 8000) for size in (1, 3)]
    torch.testing.assert_close(infer(model, mixture, condition, Inference(chunk_s=1.0), 8000), whole)
    torch.testing.assert_close(chunked[0], chunked[1], rtol=1e-4, atol=1e-5)
    assert chunked[0].shape == (1, 2, 1500)
    assert not torch.allclose(chunked[0], whole, atol=1e-4)  # it was really cut


# ---------------------------------------------------------------------------------------- the extractor


@pytest.fixture(scope="module")
def extractor(checkpoint_path):
    return tse_lib.load(checkpoint_path)


@pytest.fixture(scope="module")
def mixture():
    return tiny.voice("a-0", 4000) + tiny.voice("b-0", 4000)


@pytest.fixture(scope="module")
def enroll():
    return tiny.voice("a-1", 3000)


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100, 11025])
@pytest.mark.parametrize("shape", [(4000,), (1, 4000), (2, 4001), (3, 1999), (1,), (2, 20)])
def test_the_estimate_has_the_mixtures_shape_at_any_rate(extractor, enroll, sample_rate, shape):
    wave = 0.1 * np.random.default_rng(0).standard_normal(shape)  # float64 is taken too
    estimate = extractor.extract(wave, enroll, sample_rate, 8000)
    assert estimate.shape == shape and estimate.dtype == np.float32 and np.isfinite(estimate).all()


def test_another_rate_gives_the_same_up_to_resampling(extractor, mixture, enroll):
    mixture, enroll = (audio.resample(audio.resample(wave, 8000, 5000), 5000, 8000) for wave in (mixture, enroll))
    at_8k = extractor.extract(mixture, enroll, 8000)
    doubled = extractor.extract(
        audio.resample(mixture, 8000, 16000), audio.resample(enroll, 8000, 16000), 16000, settings=Inference(chunk_s=30)
    )
    back = audio.resample(doubled, 16000, 8000)
    error = np.square(back[100:-100] - at_8k[100:-100]).mean() / np.square(at_8k).mean()
    assert 10 * np.log10(error) < -20


def test_channels_do_not_mix_and_tensors_are_taken(extractor, mixture, enroll):
    stereo = np.stack([mixture, mixture[::-1]])
    both = extractor.extract(torch.from_numpy(stereo.copy()), torch.from_numpy(enroll), 8000)
    np.testing.assert_allclose(both[0], extractor.extract(mixture, enroll, 8000), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(both[1], extractor.extract(stereo[1].copy(), enroll, 8000), rtol=1e-4, atol=1e-6)


def test_several_enrolments_of_different_lengths(extractor, mixture, enroll):
    one = extractor.extract(mixture, [enroll], 8000)
    np.testing.assert_array_equal(one, extractor.extract(mixture, enroll, 8000))
    several = [extractor.extract(mixture, waves, 8000) for waves in ([enroll, enroll[:700]], (enroll[:700], enroll))]
    np.testing.assert_allclose(several[0], several[1], rtol=1e-4, atol=1e-6)
    assert not np.allclose(several[0], one, atol=1e-5)
    stereo = extractor.extract(mixture, np.stack([enroll, enroll]), 8000)
    np.testing.assert_allclose(stereo, one, rtol=1e-4, atol=1e-6)


def test_the_input_is_not_changed(extractor, mixture, enroll):
    before = mixture.copy(), enroll.copy()
    extractor.extract(mixture, enroll, 8000)
    assert np.array_equal(mixture, before[0]) and np.array_equal(enroll, before[1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m, e: (m[:0], e), "mixture: empty"),
        (lambda m, e: (m, e[:0]), "enrolment: empty"),
        (lambda m, e: (m, []), "no enrolment was given"),
        (lambda m, e: (m * 0, e), "mixture: silent"),
        (lambda m, e: (m, [e, e * 0]), "enrolment 2: silent"),
        (lambda m, e: (m * np.nan, e), "mixture: holds NaN"),
        (lambda m, e: (m, e * np.inf), "enrolment: holds NaN or infinite"),
        (lambda m, e: ((m * 32767).astype(np.int16), e), "floating point .* got int16"),
        (lambda m, e: (m[:, None], e), r"\(4000, 1\) looks transposed"),
        (lambda m, e: (m[None, None], e), r"got \(1, 1, 4000\)"),
    ],
)
def test_inputs_that_cannot_be(extractor, mixture, enroll, change, told):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed = change(mixture, enroll)
    with pytest.raises(ValueError, match=told):
        extractor.extract(*changed, 8000)


# ---------------------------------------------------------------------------------------- loading


@pytest.fixture
def state():
    """A training state whose averaged weights differ from the raw ones."""
    made = new_state(tiny.conf_of(), torch.device("cpu"))
    made.model.load_state_dict(tiny.make_model(1).state_dict())
    made.ema.module.load_state_dict(tiny.make_model(2).state_dict())
    return made


def test_last_and_best_and_packed_give_the_same(tmp_path, state, mixture, enroll):
    conf = tiny.conf_of()
    saved = state.to_checkpoint(conf)
    checkpoint.save(tmp_path / "last.pt", saved)
    averaged = {key.removeprefix("module."): value for key, value in saved["ema"].items() if key.startswith("module.")}
    best = {"modules": {"model": averaged}, "step": 1, "config": conf.model_dump(mode="json")}
    checkpoint.save(tmp_path / "best.pt", best)
    pack(tse_lib.load(tmp_path / "best.pt"), tmp_path / "packed", "best.pt", None, "none")
    outputs = [
        tse_lib.load(tmp_path / name).extract(mixture, enroll, 8000) for name in ("last.pt", "best.pt", "packed")
    ]
    assert np.array_equal(outputs[0], outputs[1]) and np.array_equal(outputs[1], outputs[2])
    raw = {**best, "modules": {"model": saved["modules"]["model"]}}
    checkpoint.save(tmp_path / "raw.pt", raw)
    assert not np.allclose(tse_lib.load(tmp_path / "raw.pt").extract(mixture, enroll, 8000), outputs[0], atol=1e-4)


def test_only_the_checkpoints_own_conf_counts(tmp_path):
    values = tiny.values() | {"inference": {"chunk_s": 3, "overlap_count": 4}}
    saved = {"modules": {"model": tiny.make_model().state_dict()}, "config": values}
    checkpoint.save(tmp_path / "a.pt", saved)
    assert tse_lib.load(tmp_path / "a.pt").conf.inference == Inference(chunk_s=3, overlap_count=4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda saved: saved.pop("config"), "holds no model of this toolkit"),
        (lambda saved: saved.pop("modules"), "holds no model of this toolkit"),
        (lambda saved: saved["modules"]["model"].pop("usef.norm.bias"), r"do not fit its conf; missing \['usef.norm.b"),
        (lambda saved: saved["modules"]["model"].update(more=torch.ones(1)), r"unexpected \['more'\]"),
        (lambda saved: saved["modules"]["model"].update({"usef.norm.bias": torch.ones(3)}), "usef.norm.bias"),
        (lambda saved: saved["config"]["model"].update(name="nonsense"), "unknown model 'nonsense'"),
        (lambda saved: saved["config"]["model"]["params"].update(x=1), "unknown option 'x'"),
        (lambda saved: saved["config"].pop("sample_rate"), "'sample_rate' is missing"),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path, change, told):
    saved = {"modules": {"model": tiny.make_model().state_dict()}, "config": tiny.values()}
    change(saved)
    checkpoint.save(tmp_path / "a.pt", saved)
    with pytest.raises(ValueError, match=told) as error:
        tse_lib.load(tmp_path / "a.pt")
    assert str(tmp_path / "a.pt") in str(error.value) or "unknown" in str(error.value)


def test_a_missing_model():
    with pytest.raises(FileNotFoundError, match="nowhere/best.pt: no such checkpoint"):
        tse_lib.load("nowhere/best.pt")
