"""A packed model is the model, holds no code, and is not there until it is whole."""

import json

import numpy as np
import pytest
import torch
import yaml

import tse_lib
from tests import tiny
from tse_lib.bin.main import main
from tse_lib.export.pack import readme
from tse_lib.inference import packed


@pytest.fixture
def folder(tmp_path, checkpoint_path):
    assert main(["export", "--model", str(checkpoint_path), "--out", str(tmp_path / "model")]) == 0
    return tmp_path / "model"


def test_a_packed_model_is_the_model(folder, checkpoint_path):
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.safetensors", "model.yaml"]
    before, after = tse_lib.load(checkpoint_path), tse_lib.load(folder)
    assert before.conf == after.conf
    for name, value in before.model.state_dict().items():
        assert torch.equal(value, after.model.state_dict()[name])
    mixture, enroll = tiny.voice("a-0", 2000), tiny.voice("b-0", 2000)
    assert np.array_equal(before.extract(mixture, enroll, 8000), after.extract(mixture, enroll, 8000))


def test_nothing_of_training_is_in_it(folder):
    conf = yaml.safe_load((folder / "model.yaml").read_text())
    assert set(conf) == {"sample_rate", "model", "inference"}


def test_figures_and_licence_stand_in_the_readme(tmp_path, checkpoint_path):
    metrics = {
        "si_sdri": {"mean": 7.126, "ci95": [6.5, 7.75], "std": 1, "n": 9},
        "pesq": {"mean": None, "ci95": None, "std": None, "n": 0},
    }
    summary = {"n": 10, "conf": "tse", "seed": 1, "metrics": metrics}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    words = ["--summary", str(tmp_path / "summary.json"), "--data_licence", "CC BY 4.0"]
    assert main(["export", "--model", str(checkpoint_path), "--out", str(tmp_path / "model"), *words]) == 0
    text = (tmp_path / "model" / "README.md").read_text()
    assert "CC BY 4.0" in text and "| si_sdri | 7.13 | 6.50 to 7.75 | 9 |" in text and "pesq" not in text
    count = sum(parameter.numel() for parameter in tiny.make_model().parameters())
    assert f"{count:,} parameters" in text


def test_sources_are_counted_as_what_they_are(tmp_path, checkpoint_path):
    model = tse_lib.load(checkpoint_path)
    for more, told in (({}, "Scored on 10 targets"), ({"stems": ["kick"]}, "Scored on 10 stems")):
        (tmp_path / "summary.json").write_text(json.dumps({"n": 10, "conf": "tse", "seed": 1, "metrics": {}} | more))
        assert told in readme(model, "best.pt", tmp_path / "summary.json", "")


@pytest.mark.parametrize(
    ("text", "told"),
    [('{"n": 1}\n{"n": 2}\n', "not JSON"), ('{"n": 1}', "not a summary.json"), ("[1]", "not a summary")],
)
def test_a_summary_that_is_none(tmp_path, checkpoint_path, capsys, text, told):
    (tmp_path / "odd.json").write_text(text)
    words = ["--out", str(tmp_path / "model"), "--summary", str(tmp_path / "odd.json")]
    assert main(["export", "--model", str(checkpoint_path), *words]) == 4
    assert f"odd.json: {told}" in capsys.readouterr().err and not (tmp_path / "model").exists()


def test_another_readme_is_not_overwritten(tmp_path, checkpoint_path, capsys):
    (tmp_path / "README.md").write_text("mine")
    assert main(["export", "--model", str(checkpoint_path), "--out", str(tmp_path)]) == 4
    assert "has a README.md of something else" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "mine" and not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("words", [[], ["--to", "hifi_tse"]])
def test_nothing_is_converted_onto_itself(folder, capsys, words):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["convert", str(folder), "-o", f"{folder}/../model", *words]) == 4
    assert "the output would overwrite the source" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_difference_after_packing_is_noticed(tmp_path, checkpoint_path, monkeypatch, capsys):
    original = packed.save_file

    def failing_disk(weights, path):
        original({name: value + (name == "usef.norm.bias") for name, value in weights.items()}, path)

    monkeypatch.setattr(packed, "save_file", failing_disk)
    assert main(["export", "--model", str(checkpoint_path), "--out", str(tmp_path / "model")]) == 4
    assert "'usef.norm.bias' differs after packing" in capsys.readouterr().err


def test_a_folder_without_its_conf_is_no_model(tmp_path, folder):
    (folder / "model.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.yaml: no such configuration"):
        tse_lib.load(folder)


def test_a_kill_while_packing_leaves_no_model(tmp_path, checkpoint_path, monkeypatch):
    """model.yaml comes last, and an old one goes first."""
    extractor = tse_lib.load(checkpoint_path)
    packed.write_packed(tmp_path / "model", extractor.model.state_dict(), extractor.conf, "")

    def killed(weights, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(packed, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        packed.write_packed(tmp_path / "model", extractor.model.state_dict(), extractor.conf, "")
    assert not (tmp_path / "model" / "model.yaml").exists()


def test_files_of_something_else_are_kept(tmp_path, checkpoint_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("theirs")
    assert main(["export", "--model", str(checkpoint_path), "--out", str(tmp_path)]) == 4
    assert "has a model.safetensors of something else, which is kept; name another" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").read_text() == "theirs"
    (tmp_path / "config.json").unlink()  # as packing leaves a folder that was killed
    assert main(["export", "--model", str(checkpoint_path), "--out", str(tmp_path)]) == 0


@pytest.mark.parametrize("size", [0, 5, 3000])
def test_weights_cut_short(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model\.safetensors: cut short or damaged"):
        tse_lib.load(folder)


def test_weights_that_are_missing(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: no weights here"):
        tse_lib.load(folder)
