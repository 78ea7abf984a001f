"""tse inspect of mixtures of stems: the page and the audio are what training gets."""

import re
import shutil

import numpy as np
import pytest
import yaml

from tests.test_inspect import parts_of
from tests.test_report import CHROMIUM, Page, in_browser
from tests.test_stems import RATE, STEMS, data, experiment  # noqa: F401  (a fixture)
from tse_lib import audio
from tse_lib.bin.main import main
from tse_lib.config import load_config
from tse_lib.data.stems import StemMixtures
from tse_lib.simulation.stems import read_stem_corpus


@pytest.fixture(scope="module")
def stems(data, tmp_path_factory):  # noqa: F811
    """The folder of an inspection of drums, two of whose knobs turn at step 2."""
    folder = tmp_path_factory.mktemp("stems")
    often = {"drop_probability": 0.3, "invert_probability": 0.5, "channel_swap_probability": 0.5, "gain_db": [-6, 6]}
    conf = experiment(simulation=often)
    values = conf.model_dump(mode="json") | {
        "curriculum": [{"until_step": 2, "simulation": {"invert_probability": 0.0, "swap_probability": 0.0}}]
    }
    (folder / "conf.yaml").write_text(yaml.safe_dump(values))
    options = ["--data", data, "--out", folder / "out", "-n", 5, "--draws", 40, "--json"]
    assert main([str(word) for word in ("inspect", folder / "conf.yaml", *options)]) == 0
    return folder / "out"


def test_stems_are_what_training_gets(stems, data):  # noqa: F811
    conf = load_config(stems.parent / "conf.yaml")
    drawn = StemMixtures(read_stem_corpus([data / "train"], conf.simulation, conf.sample_rate), conf)
    for step in (0, 2):
        for index in range(step * drawn.items_per_step, step * drawn.items_per_step + 5):
            item, folder = drawn[index], stems / "audio" / f"step-{step}" / f"train-{index}"
            waves = {"mixture": item["mixture"], **dict(zip(conf.simulation.stems, item["target"], strict=True))}
            assert {path.stem for path in folder.iterdir()} == set(waves)
            for name, wave in waves.items():
                np.testing.assert_allclose(audio.read(folder / f"{name}.wav", mono=False)[0], wave, atol=0.51 * 2**-15)


def test_the_page_of_stems(stems):
    text = (stems / "index.html").read_text()
    parsed, parts = Page(text), parts_of(stems)
    assert parsed.unlabelled == [] and "http" not in text and "Levels of the stems: step 2" in text
    anchors = {source[1:] for source in parsed.sources if source.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', text)) and {"mixtures-step-0", "mixtures-step-2"} <= anchors
    heard = sum(len(shown["levels_db"]) + 1 for part in parts.values() for shown in part["shown"])
    assert parsed.counts["audio"] == heard > 20
    assert not any(any(draw["inverted"]) for draw in parts["step 0"]["draws"])
    assert any(any(draw["inverted"]) for draw in parts["step 2"]["draws"])
    for shown in parts["step 2"]["shown"]:
        folder = stems / "audio" / "step-2" / shown["mix_id"]
        waves = {path.stem: audio.read(path, mono=False)[0] for path in folder.iterdir()}
        whole = 20 * np.log10(np.sqrt(np.mean(waves["mixture"] ** 2)))
        for name, level in shown["levels_db"].items():
            there = 20 * np.log10(np.sqrt(np.mean(waves[name] ** 2)))
            assert level == pytest.approx(there - whole, abs=0.1)
            assert 0 < sum(end - begin for begin, end in shown["heard_s"][name]) <= 1.5
        assert all(not waves[name].any() for name in set(waves) - {"mixture", *shown["levels_db"]})


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page with")
def test_the_page_of_stems_in_a_browser(stems, tmp_path):
    shutil.copytree(stems, tmp_path / "copy")
    found, console = in_browser(tmp_path / "copy" / "index.html", tmp_path / "copy")
    assert console == "" and found["width"] <= 0 and found["bad_images"] == found["bad_audio"] == 0


def test_fixed_sets_of_stems(data, tmp_path, capsys):  # noqa: F811
    drawn = {"num_mixtures": 3, "tracks": "dev", "simulation": {"stems": list(STEMS), "segment_s": 1.5}}
    sets = {"seed": 3, "sample_rate": RATE, "sets": {"dev": drawn}}
    (tmp_path / "sets.yaml").write_text(yaml.safe_dump(sets))
    options = ["--data", data, "--out", tmp_path / "out", "-n", 2, "--json"]
    assert main([str(word) for word in ("inspect", tmp_path / "sets.yaml", *options)]) == 0
    (part,) = parts_of(tmp_path / "out").values()
    assert [draw["mix_id"] for draw in part["draws"]] == ["dev-00000", "dev-00001", "dev-00002"]
    assert [shown["mix_id"] for shown in part["shown"]] == ["dev-00000", "dev-00001"]
    assert "hihat" in capsys.readouterr().out
