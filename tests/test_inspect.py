"""tse inspect: the page holds what is drawn as it is drawn, counted and measured right, whole or not at all."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
import yaml
from test_report import CHROMIUM, Page, in_browser

from tests import tiny
from tse_lib import audio
from tse_lib.bin.inspect import replaced_folder, reverberation_s
from tse_lib.bin.main import main
from tse_lib.config import Simulation, build, load_config
from tse_lib.data.dataset import DrawnMixtures
from tse_lib.evaluation.inspection import Part, drawn_table, numbers_of, times_wanted, values_of
from tse_lib.evaluation.page import page
from tse_lib.manifest import Mask, Mixture, Response, Source, read_mixtures
from tse_lib.simulation.sample import read_corpus

RATE = tiny.RATE
MISSING, BAD_DATA = 3, 4


def write_conf(path: Path, curriculum=(), **simulation) -> Path:
    values = tiny.values()
    values["simulation"] |= simulation
    values["curriculum"] = list(curriculum)
    path.write_text(yaml.safe_dump(values))
    return path


def words(corpus_dir: Path, conf: Path, out: Path, *more) -> list[str]:
    sets = ["--data", corpus_dir, "--train", "train", "--noise", "noise", "--rirs", "rir"]
    return [str(word) for word in ("inspect", conf, *sets, "--out", out, *more)]


@pytest.fixture(scope="module")
def inspected(corpus_dir, tmp_path_factory) -> Path:
    """The folder of an inspection of every knob, with a curriculum that turns at step 4; conf.yaml lies beside it."""
    folder = tmp_path_factory.mktemp("inspected")
    conf = write_conf(
        folder / "conf.yaml",
        [{"until_step": 4, "simulation": {"num_talkers": 1, "noise_probability": 0.0}}],
        num_talkers=[2, 3], noise_probability=1.0, speed=[0.9, 1.1], rir_probability=0.5, target="early",
        target_presence=[0.4, 1.0], overlap_ratio=[0.2, 1.0], num_enrolls=[1, 2], enroll_noise_probability=0.5,
        enroll_rir_probability=0.5, enroll_eq_probability=0.5,
    )  # fmt: skip
    assert main(words(corpus_dir, conf, folder / "out", "-n", 6, "--draws", 60, "--json")) == 0
    return folder / "out"


def parts_of(folder: Path) -> dict:
    return {part["name"]: part for part in json.loads((folder / "inspection.json").read_text())["parts"]}


def files_below(folder: Path) -> dict[str, str]:
    """Every file with its hash."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ------------------------------------------------------------------------------------------------------------ the page


def test_the_page_is_whole_and_its_links_lead_to_the_audio(inspected):
    text = (inspected / "index.html").read_text()
    parsed = Page(text)
    assert "script" not in parsed.counts and parsed.unlabelled == []
    assert "http" not in text and "url(" not in text
    sounds = {unquote(source) for source in parsed.sources if not source.startswith(("data:", "#"))}
    assert sounds == {name for name in files_below(inspected) if name not in ("index.html", "inspection.json")}
    assert parsed.counts["audio"] == len(sounds) >= 12 * 3
    anchors = {source[1:] for source in parsed.sources if source.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', text)) and {"mixtures-step-0", "mixtures-step-4"} <= anchors


def test_every_number_of_a_mixture_is_on_the_page(inspected, corpus_dir):
    text = (inspected / "index.html").read_text()
    articles = dict(re.findall(r'<article class="[^"]*"><h3>([^<]+)</h3>(.*?)</article>', text, re.DOTALL))
    corpus = read_corpus(corpus_dir / "train", corpus_dir / "noise", corpus_dir / "rir")
    drawn = DrawnMixtures(corpus, load_config(inspected.parent / "conf.yaml"))
    for index in range(8, 14):  # two items a step: those of step 4 on
        mixture, shown = drawn.mixture(index), articles[f"train-{index}"]
        said = [f"SNR {mixture.noise.level_db:.2f} dB", mixture.noise.utt_id]
        for source in (*mixture.talkers, *mixture.enrolls):
            said += [source.spk_id, source.utt_id, source.path, f"{source.speed:.3f}"]
            said += [f"{source.rir.utt_id} (rir)"] if source.rir else []
            said += [f"noise {source.noise.utt_id} at {source.noise.level_db:.1f} dB"] if source.noise else []
            said += [f"equaliser {source.eq_db[0]:+.1f}"] if source.eq_db else []
        said += [f"SIR {source.level_db:.2f} dB" for source in mixture.talkers[1:]]
        assert [piece for piece in said if piece not in shown] == []


def test_an_absent_target_is_marked_and_has_no_audio(inspected):
    text = (inspected / "index.html").read_text()
    absent = {
        draw["mix_id"]: not draw["present"] for part in parts_of(inspected).values() for draw in part["draws"][:6]
    }
    assert {True, False} <= set(absent.values())
    for style, mix_id, body in re.findall(r'<article class="([^"]*)"><h3>([^<]+)</h3>(.*?)</article>', text, re.DOTALL):
        marks = "absent" in style, "target absent" in body, "does not speak here" in body, "target.wav" not in body
        assert set(marks) == {absent[mix_id]}, mix_id


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page with")
def test_the_page_in_a_browser(inspected, tmp_path):
    shutil.copytree(inspected, tmp_path / "copy")
    found, console = in_browser(tmp_path / "copy" / "index.html", tmp_path / "copy")
    assert console == "" and found["width"] <= 0  # nothing stands out on a phone
    assert found["bad_images"] == found["bad_audio"] == 0 and found["audio"] >= 36


# ----------------------------------------------------------------------------------------------------------- the audio


def test_the_audio_is_what_training_gets(inspected, corpus_dir):
    corpus = read_corpus(corpus_dir / "train", corpus_dir / "noise", corpus_dir / "rir")
    drawn = DrawnMixtures(corpus, load_config(inspected.parent / "conf.yaml"))
    for step, indices in ((0, range(6)), (4, range(8, 14))):
        for index in indices:
            item, folder = drawn[index], inspected / "audio" / f"step-{step}" / f"train-{index}"
            waves = {"mixture": item["mixture"], "target": item["target"][0] if item["present"] else None}
            waves |= {f"enroll{number}": wave for number, wave in enumerate(item["enrolls"], 1)}
            for kind, wave in waves.items():
                path = folder / f"{kind}.wav"
                assert path.exists() == (wave is not None), path
                if wave is not None:
                    assert soundfile.info(path).subtype == "PCM_16"
                    np.testing.assert_allclose(audio.read(path)[0], wave, atol=0.51 * 2**-15)


def test_the_parts_add_up_to_the_mixture(inspected):
    for folder in (inspected / "audio").glob("*/*"):
        waves = {path.stem: audio.read(path)[0] for path in folder.glob("*.wav")}
        target = waves.get("image", waves.get("target", 0))  # of an early target, the image is what is mixed
        others = [wave for kind, wave in waves.items() if kind.startswith(("interferer", "noise"))]
        np.testing.assert_allclose(waves["mixture"], sum(others) + target, atol=3e-4, err_msg=str(folder))


def test_measured_is_what_was_drawn(inspected):
    num = {"sir_db": 0, "snr_db": 0}
    for part in parts_of(inspected).values():
        draws = {draw["mix_id"]: draw for draw in part["draws"]}
        for shown in part["shown"]:
            draw, found = draws[shown["mix_id"]], shown["measured"]
            assert [wanted for wanted, _ in found["sir_db"]] == draw["sir_db"]
            for key, pairs in (("sir_db", found["sir_db"]), ("snr_db", [found["snr_db"]] if found["snr_db"] else [])):
                num[key] += len(pairs)
                assert all(there == pytest.approx(wanted, abs=0.05) for wanted, there in pairs)
            assert found["level_dbfs"][1] == pytest.approx(draw["level_dbfs"], abs=0.05) or found["peak"] > 0.5
    assert num["sir_db"] >= 6 and num["snr_db"] == 6


def test_what_moves_the_levels_afterwards_is_told_apart(corpus_dir, tmp_path, capsys):
    conf = write_conf(
        tmp_path / "conf.yaml", num_talkers=2, band_limit_probability=1.0, band_limit_hz=1000, clip_probability=1.0,
        clip_db=12,
    )  # fmt: skip
    assert main(words(corpus_dir, conf, tmp_path / "out", "-n", 3, "--draws", 5, "--json")) == 0
    text = capsys.readouterr().out
    rows = {line.partition("  ")[0] for line in text.splitlines()}
    assert {"SIR", "SNR", "level after clipping or masks", "samples cut by clipping"} <= rows and "level" not in rows
    page_text = (tmp_path / "out" / "index.html").read_text()
    assert "Histogram: SIR" in page_text and "Histogram: Talkers" not in page_text  # all have two
    found = [shown["measured"] for shown in parts_of(tmp_path / "out")["step 0"]["shown"]]
    assert all(one["clipped"] > 0.001 and one["level_dbfs"][1] < one["level_dbfs"][0] for one in found)


def test_the_decay_of_a_response():
    generator = np.random.default_rng(0)
    time = np.arange(2 * RATE) / RATE
    for rt60_s in (0.3, 0.8):
        response = generator.standard_normal(len(time)) * 10 ** (-3 * time / rt60_s)
        assert reverberation_s(response, RATE) == pytest.approx(rt60_s, rel=0.05)
    assert reverberation_s(np.eye(1, 400)[0], RATE) is None
    assert reverberation_s(np.zeros(400), RATE) is None


# ---------------------------------------------------------------------------------------------------------- the counts


def crop(spk_id: str, seconds: float, offset_s: float = 0.0, **more) -> Source:
    return Source("file", 0, round(seconds * 16000), f"{spk_id}-1", spk_id, offset=round(offset_s * RATE), **more)


def known_draws() -> list[Mixture]:
    """2 s mixtures of a 16 kHz file: `a` is wanted twice, `b` once and absent, `c` never."""

    def mixture(number, talkers, enroll, present=True, **more):
        return Mixture(f"m{number}", RATE, 2 * RATE, present, talkers, (crop(enroll, 1.0),), **more)  # fmt: skip

    noise = Source("file", 0, 16000, "hum", level_db=10.0)
    room = Response("room", 5, 100, "r1")
    return [
        mixture(0, (crop("a", 1.0, 0.5), crop("b", 1.0, 1.0, level_db=3.0)), "a", noise=noise, level_dbfs=-30.0),
        mixture(1, (crop("a", 2.2, speed=1.1), crop("c", 4.0, -1.0, rir=room)), "a", level_dbfs=-20.0),
        mixture(2, (crop("c", 1.0),), "b", present=False, masks=(Mask("time", 0.1, 0.2),)),
    ]  # fmt: skip


def known_part() -> Part:
    rates, rir_sets = {"file": 16000}, {("room", 5): "rir_small"}
    draws = [numbers_of(mixture, rates, rir_sets) for mixture in known_draws()]
    asked = build(Simulation, {**tiny.SIMULATION, "rir_probability": 0.2, "num_time_masks": [0, 1]}, "known")
    return Part("known", asked, draws, [], ["a", "b", "c"], rates, rir_sets)


def test_numbers_of_known_draws():
    draws = known_part().draws
    assert values_of(draws, "presence") == [0.5, 1.0]  # a target that is absent has none
    assert values_of(draws, "overlap") == [0.5, 1.0]
    assert values_of(draws, "crop_s") == [1.0, 1.0, 2.0, 2.0, 1.0]  # what lies before the mixture is not in it
    assert values_of(draws, "sir_db") == [3.0, 0.0] and values_of(draws, "snr_db") == [10.0]
    assert values_of(draws, "num_talkers") == [2, 2, 1] and values_of(draws, "num_time_masks") == [0, 0, 1]
    assert [draw["rooms"] for draw in draws] == [[None, None], [None, "rir_small"], [None]]
    assert times_wanted(draws, ["a", "b", "c"]) == {"a": 2, "b": 1, "c": 0}


def test_the_table_of_known_draws():
    heads, rows = drawn_table([known_part()])
    table = {row[0]: row[1:] for row in rows}
    assert heads == ["", "known: asked", "drawn [least, most]"]
    assert table["talkers"] == ["2 to 3", "1.7 [1.0, 2.0]"]
    assert table["SIR (dB)"] == ["-5 to 5", "1.5 [0.0, 3.0]"]
    assert table["overlap with the target (share)"] == ["1", "0.75 [0.50, 1.00]"]
    assert table["target absent"] == ["25 %", "33.3 %"] and table["mixture with noise"] == ["80 %", "33.3 %"]
    assert table["talker in a room"] == ["20 %", "20.0 %"]
    assert table["times a speaker is the target"] == ["", "1.0 [0.0, 2.0]"]
    assert not {"clipped", "band limited", "peaks cut by (dB)", "frequency masks"} & set(table)


def test_histograms_hold_every_value_once(inspected):
    text = (inspected / "index.html").read_text()
    for title, key in (("SIR", "sir_db"), ("Level", "level_dbfs"), ("Talkers", "num_talkers"), ("Speed", "speed")):
        (chart,) = re.findall(rf'aria-label="Histogram: {title} of [^"]*">(.*?)</svg>', text, re.DOTALL)
        for name, part in parts_of(inspected).items():
            counted = [int(number) for number in re.findall(rf"<title>{name}: (\d+) of", chart)]
            assert sum(counted) == len(values_of(part["draws"], key)), (title, name)
            assert f"n = {sum(counted)}" in chart or not counted


# ------------------------------------------------------------------------------------------------------- what is drawn


def test_the_curriculum_shows(inspected):
    parts = parts_of(inspected)
    assert list(parts) == ["step 0", "step 4"]
    assert {draw["num_talkers"] for draw in parts["step 0"]["draws"]} == {1}
    assert {draw["num_talkers"] for draw in parts["step 4"]["draws"]} == {2, 3}
    assert parts["step 0"]["asked"]["noise_probability"] == 0 and parts["step 4"]["asked"]["noise_probability"] == 1
    assert [len(part["draws"]) for part in parts.values()] == [60, 60]
    assert [part["draws"][0]["mix_id"] for part in parts.values()] == ["train-0", "train-8"]


def test_steps_of_a_schedule(corpus_dir, tmp_path, capsys):
    conf = write_conf(tmp_path / "conf.yaml", snr_db={0: [20, 30], 6: [0, 10]}, noise_probability=1.0)
    common = ["-n", 1, "--draws", 30, "--json"]
    assert main(words(corpus_dir, conf, tmp_path / "turns", *common)) == 0
    assert list(parts_of(tmp_path / "turns")) == ["step 0", "step 6"]
    assert main(words(corpus_dir, conf, tmp_path / "steps", *common, "--step", 3, 0)) == 0
    parts = parts_of(tmp_path / "steps")
    assert list(parts) == ["step 0", "step 3"] and parts["step 3"]["asked"]["snr_db"] == [10, 20]
    assert all(10 <= snr <= 20 for snr in values_of(parts["step 3"]["draws"], "snr_db"))
    assert "step 3: asked" in capsys.readouterr().out


def test_the_same_command_makes_the_same_bytes(inspected, corpus_dir, tmp_path, monkeypatch):
    conf = write_conf(tmp_path / "conf.yaml", rir_probability=0.5)
    monkeypatch.chdir(tmp_path)
    before = []
    for _ in range(2):  # the second one replaces the first
        assert main(words(corpus_dir, conf, Path("out"), "-n", 2, "--draws", 20, "--json")) == 0
        before.append(files_below(tmp_path / "out"))
    assert before[0] == before[1] and len(before[0]) > 8


def test_fixed_sets_are_those_that_simulate_makes(corpus_dir, tmp_path, capsys):
    dev = {"num_mixtures": 4, "speech": "dev_speech", "noise": "noise_dev", "simulation": tiny.SIMULATION}
    sets = {"seed": 3, "sample_rate": RATE, "sets": {"dev": dev, "a/b c": {**dev, "num_mixtures": 2}}}
    (tmp_path / "sets.yaml").write_text(yaml.safe_dump(sets))
    assert main(words(corpus_dir, tmp_path / "sets.yaml", tmp_path / "out", "-n", 3, "--json")) == 0
    parts = parts_of(tmp_path / "out")
    assert {name: len(part["draws"]) for name, part in parts.items()} == {"dev": 4, "a/b c": 2}
    expected = read_mixtures(corpus_dir / "dev" / "mixtures.jsonl")  # conftest draws it of the same conf
    assert [draw["mix_id"] for draw in parts["dev"]["draws"]] == [mixture.mix_id for mixture in expected]
    assert [draw["level_dbfs"] for draw in parts["dev"]["draws"]] == [mixture.level_dbfs for mixture in expected]
    folders = sorted(path.name for path in (tmp_path / "out" / "audio").iterdir())
    assert folders == ["a~2fb-c", "dev"] and len(list((tmp_path / "out/audio/dev").iterdir())) == 3
    assert main(words(corpus_dir, tmp_path / "sets.yaml", tmp_path / "out", "--sets", "dev", "--json")) == 0
    assert list(parts_of(tmp_path / "out")) == ["dev"]  # nothing is left of the inspection before
    assert "dev: asked" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.fixture
def refused(corpus_dir, tmp_path, capsys, monkeypatch):
    """Run it to an error; nothing may have been written."""
    monkeypatch.chdir(tmp_path)
    write_conf(tmp_path / "conf.yaml")
    dev = {"num_mixtures": 4, "speech": "dev_speech", "noise": "nowhere", "simulation": tiny.SIMULATION}
    (tmp_path / "sets.yaml").write_text(yaml.safe_dump({"seed": 3, "sample_rate": RATE, "sets": {"dev": dev}}))

    def run(code: int, *options, conf: str = "conf.yaml", data: Path = corpus_dir) -> str:
        before = files_below(tmp_path)
        assert main([str(word) for word in ("inspect", conf, "--data", data, *options)]) == code
        assert files_below(tmp_path) == before and not list(tmp_path.glob(".partial*"))
        err = capsys.readouterr().err.splitlines()[-1]
        assert err.startswith("tse inspect: error: ")
        return err

    return run


def test_errors_of_the_conf_and_the_data_come_through(refused):
    noise = ("--noise", "noise")
    assert "did you mean 'snr_db'?" in refused(BAD_DATA, *noise, "--set", "simulation.snr_dB=3")
    assert "noise_probability is above 0, but no set of noise was given" in refused(BAD_DATA)
    assert "no data set here" in refused(MISSING, *noise, "--train", "elsewhere")
    assert "no such configuration; there are: conf.yaml, sets.yaml" in refused(MISSING, conf="other.yaml")
    assert "nowhere: no data set here" in refused(MISSING, conf="sets.yaml")


def test_options_that_do_not_fit(refused):
    assert "trains for 8 steps, 0 to 7" in refused(BAD_DATA, "--noise", "noise", "--step", "2", "8")
    assert "is an experiment" in refused(BAD_DATA, "--noise", "noise", "--sets", "dev")
    assert "--sets test: sets.yaml has dev" in refused(BAD_DATA, "--sets", "test", conf="sets.yaml")
    assert "which --sets chooses" in refused(BAD_DATA, "--set", "seed=4", conf="sets.yaml")
    assert "which --sets chooses" in refused(BAD_DATA, "--step", "0", conf="sets.yaml")
    with pytest.raises(SystemExit):
        main(["inspect", "conf.yaml", "-n", "0"])


def test_a_folder_that_is_no_inspection_is_kept(refused, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "index.html").write_text(page("my holidays", "<p>tse inspect</p>"))
    assert "is no inspection" in refused(BAD_DATA, "--noise", "noise", "--out", "mine")
    (out / "index.html").rename(out / "thesis.tex")
    assert "is no inspection" in refused(BAD_DATA, "--noise", "noise", "--out", "mine")


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "large_disk").mkdir()
    (tmp_path / "inspect").symlink_to("large_disk")
    with replaced_folder(tmp_path / "inspect") as fresh:
        (fresh / "index.html").touch()
    assert (tmp_path / "inspect").is_symlink() and (tmp_path / "large_disk" / "index.html").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inspect", "large_disk"]


def test_a_file_that_cannot_be_read(refused, corpus_dir, tmp_path):
    data = tmp_path / "data"
    for name in ("train", "noise"):
        shutil.copytree(corpus_dir / name, data / name)
    scp = data / "noise" / "wav.scp"
    scp.write_text(scp.read_text().replace(str(corpus_dir), str(data)))
    for path in (data / "noise" / "wav").iterdir():
        path.write_bytes(b"RIFF")
    said = refused(BAD_DATA, "--noise", "noise", "--set", "simulation.noise_probability=1", data=data)
    assert "noise-" in said
