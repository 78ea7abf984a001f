"""Embeddings from elsewhere beside data sets: made, read, trained on, extracted with."""

import shutil

import numpy as np
import pytest
import torch
import yaml

import tse_lib
from tests import tiny
from tests.test_matrix import params_of
from tse_lib import audio, checkpoint
from tse_lib.bin.main import main
from tse_lib.config import Config, build
from tse_lib.data.dataset import DrawnMixtures, RenderedMixtures, to_batch
from tse_lib.manifest import read_data_dir, read_embeddings, write_embeddings
from tse_lib.models import build_model
from tse_lib.simulation.sample import read_corpus

GIVEN = params_of("conv_tasnet", "film", speaker={"kind": "given", "embedding_dim": 6})


def conf_of(params, **simulation):
    values = tiny.values()
    values["model"] = {"name": "conditioned", "params": params}
    values["simulation"].update(simulation)
    return values


@pytest.fixture(scope="module")
def data(corpus_dir, tmp_path_factory):
    """The tiny data sets with the embeddings that a network's own encoder made of them by `tse embed`."""
    folder = tmp_path_factory.mktemp("embedded")
    shutil.copytree(corpus_dir, folder / "data")
    conf = build(Config, conf_of(params_of("conv_tasnet", "film")), "conf")
    torch.manual_seed(0)
    model = build_model("conditioned", conf.model.params, tiny.RATE)
    saved = {"modules": {"model": model.state_dict()}, "step": 1, "config": conf.model_dump(mode="json")}
    checkpoint.save(folder / "hears.pt", saved)
    words = ["--model", str(folder / "hears.pt"), "--device", "cpu"]
    assert main(["embed", str(folder / "data" / "train"), *words]) == 0
    speech, to = (str(folder / "data" / name) for name in ("dev_speech", "dev"))
    assert main(["embed", speech, "--to", to, *words]) == 0
    return folder / "data"


def test_a_table_has_what_the_encoder_makes(data):
    table, hears = read_embeddings(data / "train", 6), tse_lib.load(data.parent / "hears.pt")
    utterances = read_data_dir(data / "train")
    assert sorted(table) == sorted(utt.utt_id for utt in utterances)
    wave, rate = audio.read(utterances[3].path)
    np.testing.assert_array_equal(table[utterances[3].utt_id], hears.encode(wave, rate)["embedding"][0])


def test_what_makes_no_embedding(data, checkpoint_path, capsys):
    assert main(["embed", str(data / "train"), "--model", str(checkpoint_path), "--device", "cpu"]) == 4
    assert "its condition is frames; a model with a speaker encoder is wanted" in capsys.readouterr().err


def test_it_trains_and_extracts(data, tmp_path):
    """From tables to estimates by the verbs: what comes out is what the item's mean embedding gives."""
    (tmp_path / "conf.yaml").write_text(yaml.safe_dump(conf_of(GIVEN)))
    words = ["--conf", str(tmp_path / "conf.yaml"), "--data", str(data), "--noise", "noise", "--device", "cpu"]
    assert main(["train", *words, "--exp", str(tmp_path / "exp"), "--set", "train.max_steps=4"]) == 0
    best = str(tmp_path / "exp" / "best.pt")
    out = ["--data", str(data / "dev"), "--out", str(tmp_path / "wav"), "--device", "cpu"]
    assert main(["infer", "--model", best, *out]) == 0
    mixtures, table = RenderedMixtures(str(data / "dev"), tiny.RATE), read_embeddings(data / "dev", 6)
    model = tse_lib.load(best)
    for item, mixture in zip(mixtures, mixtures.mixtures, strict=True):
        told = model.enroll_embedding(np.mean([table[source.utt_id] for source in mixture.enrolls], 0))
        wanted = model.extract(item["mixture"], told, tiny.RATE)
        found, _ = audio.read(tmp_path / "wav" / f"{mixture.mix_id}.wav")
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("where", ["worker", "device"])
def test_items_have_the_embeddings_of_their_enrolments(data, where):
    conf = build(Config, conf_of(GIVEN, num_enrolls=[2, 2], render_on=where), "conf")
    table = read_embeddings(data / "train", 6)
    drawn = DrawnMixtures(read_corpus(data / "train", data / "noise", (), "extract", 6), conf)
    batch = to_batch([drawn[index] for index in range(3)], torch.device("cpu"))
    for index in range(3):
        wanted = np.stack([table[source.utt_id] for source in drawn.mixture(index).enrolls])
        np.testing.assert_array_equal(batch["enroll"][index], wanted)
    assert batch["lengths"].tolist() == [[6, 6]] * 3


def test_embeddings_are_of_utterances_as_they_are(data):
    corpus = read_corpus(data / "train", data / "noise", (), "extract", 6)
    with pytest.raises(ValueError, match="embeddings are of utterances as they are; speed: 1, or speed_enroll: false"):
        DrawnMixtures(corpus, build(Config, conf_of(GIVEN, speed=[0.9, 1.1]), "conf"))
    DrawnMixtures(corpus, build(Config, conf_of(GIVEN, speed=[0.9, 1.1], speed_enroll=False), "conf"))


def test_bad_tables(data, tmp_path):
    with pytest.raises(FileNotFoundError, match="utt2embedding.npz: not there; tse embed makes it"):
        read_embeddings(data / "noise", 6)
    with pytest.raises(ValueError, match=r"embeddings of shape \(15, 6\), the model wants \(N, 7\)"):
        read_embeddings(data / "train", 7)
    one = np.ones(6, np.float32)
    for arrays, told in (
        ({"utt_ids": np.array(["a"])}, "cannot be read"),
        ({"utt_ids": np.array(["a"], object), "embeddings": one[None]}, "cannot be read"),
        ({"utt_ids": np.array([1]), "embeddings": one[None]}, "text and"),
        ({"utt_ids": np.array(["a", "a"]), "embeddings": np.stack([one, one])}, "there twice"),
        ({"utt_ids": np.array(["a"]), "embeddings": one[None] * np.nan}, "not finite"),
    ):
        np.savez(tmp_path / "utt2embedding.npz", **arrays)
        with pytest.raises(ValueError, match=told):
            read_embeddings(tmp_path, 6)
    (tmp_path / "utt2embedding.npz").write_bytes(b"no table")
    with pytest.raises(ValueError, match="cannot be read"):
        read_embeddings(tmp_path, 6)
    write_embeddings(tmp_path, {"elsewhere": one})
    conf = build(Config, conf_of(GIVEN), "conf")
    corpus = read_corpus(data / "train", data / "noise", (), "extract", 6)
    object.__setattr__(corpus, "embeddings", read_embeddings(tmp_path, 6))
    with pytest.raises(ValueError, match="train-0: its enrolment '.-.' has no embedding; tse embed that data set"):
        DrawnMixtures(corpus, conf)[0]
