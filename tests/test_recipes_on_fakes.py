"""Recipes whose corpora are large or licensed, from stage 1 to rendered sets, on small corpora of the true layout."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from tests import fake_drums, fake_polsess, fake_wsj0_2mix
from tests import test_corpora_noise as noise
from tests import test_corpora_rooms as rooms
from tests import test_corpora_speech as speech
from tests.recipe_folder import ROOT, RecipeFolder
from tse_lib.manifest import read_data_dir, read_mixtures
from tse_lib.store import PackedUtterances

TSE = Path(sys.executable).with_name("tse")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TSE.exists(), reason=f"{TSE} is missing: pip install -e ."),
    pytest.mark.skipif(importlib.util.find_spec("soundfile") is None, reason="soundfile is missing"),
]


class Copy(RecipeFolder):
    """A recipe of the repository below `top`; where its mixtures are drawn, with fixed sets of two short ones each."""

    def __init__(self, top: Path, name: str, drawn: bool = True) -> None:
        super().__init__(top)
        self.folder = top / "egs" / name
        self.script = self.folder / "run.sh"
        shutil.copytree(ROOT / "egs" / name, self.folder, ignore=shutil.ignore_patterns("data", "exp", "corpora"))
        shutil.copytree(ROOT / "utils", top / "utils", ignore=shutil.ignore_patterns("__pycache__"))
        for script in ("path.sh", "cmd.sh", "run.sh"):
            shutil.copy(ROOT / script, top / script)
        (top / "tse_lib").symlink_to(ROOT / "tse_lib")
        if not drawn:
            return
        path = self.folder / "conf" / "sets.yaml"
        sets = yaml.safe_load(path.read_text())
        for one in sets["sets"].values():
            one |= {"num_mixtures": 2, "num_absent": 1}
            one["simulation"] |= {"segment_s": 0.5, "num_talkers": 2, "enroll_s": 0.4, "target_begin_s": 0}
        path.write_text(yaml.safe_dump(sets))
        self.sets = list(sets["sets"])

    def run_to_stage_2(self) -> None:
        options = ("--stage", "1", "--stop_stage", "2", "--nj", "2")
        result = self.run(*options, TSE_PYTHON=sys.executable)
        assert result.returncode == 0, result.stderr
        for name in self.sets:
            mixtures = read_mixtures(self.path(f"data/{name}/mixtures.jsonl"))
            assert [mixture.target_present for mixture in mixtures].count(False) == 1
            assert all(
                self.path(f"data/{name}/mixtures/mixture/{mixture.mix_id}.flac").exists() for mixture in mixtures
            )
        again = self.run(*options, TSE_PYTHON=sys.executable)
        assert again.returncode == 0 and "nothing to do" in again.stderr + again.stdout


def test_libri_musan(tmp_path):
    recipe = Copy(tmp_path, "libri_musan/tse1")
    top = recipe.path("corpora/LibriSpeech")
    readers, lines = iter(range(100, 200)), []
    for part in ("train-clean-100", "train-clean-360", "dev-clean", "test-clean"):
        for reader in (next(readers) for _ in range(3)):
            chapter = top / part / str(reader) / "7"
            for number in range(2):
                speech.write(chapter / f"{reader}-7-{number:04d}.flac", 16000)
            (chapter / f"{reader}-7.trans.txt").write_text(
                "".join(f"{reader}-7-{n:04d} SOME WORDS\n" for n in range(2))
            )
            lines.append(f"{reader:<4} | F | {part:<16} | 25.03 | A Name\n")
    (top / "SPEAKERS.TXT").write_text(";ID  |SEX| SUBSET           |MINUTES| NAME\n" + "".join(lines))
    noise.make_musan(recipe.path("corpora/musan"))
    recipe.run_to_stage_2()
    for name, count in {"train": 12, "dev": 6, "test": 6, "noise_train": 6}.items():
        utterances = recipe.path(f"data/{name}")
        assert len(read_tables_at(utterances)) == count
    assert recipe.path("data/train/packed").is_dir() and recipe.path("data/noise_train/packed").is_dir()


def test_hifi48k(tmp_path):
    recipe = Copy(tmp_path, "hifi48k/tse1")
    corpora = recipe.path("corpora")
    speech.make_dns_speech(corpora / "dns_speech")
    (corpora / "ears").mkdir(parents=True)
    speech.make_ears(corpora / "ears")
    speech.make_vctk(corpora / "vctk" / "VCTK-Corpus-0.92")
    noise.make_wham_high_res(corpora / "wham_noise" / "high_res_wham")
    noise.make_demand(corpora / "demand", ("DKITCHEN", "NPARK", "STRAFFIC"))
    for clip in ("4hlyuUXRd4o", "5hlyuUXRd4o", "door_Freesound_validated_235661_0"):
        noise.write_wave(corpora / "dns_noise" / f"{clip}.wav", 48000)
    rooms.make_simulated(corpora / "slr26", "simulated_rirs_48k", 48000)
    rooms.make_slr28(corpora / "slr28" / "RIRS_NOISES")
    recipe.run_to_stage_2()
    mixture = read_mixtures(recipe.path("data/test_partial/mixtures.jsonl"))[0]
    assert mixture.sample_rate == 48000 and all(talker.rir for talker in mixture.talkers)


def test_polsess(tmp_path):
    """Two goals one after the other, from the corpus to the results."""
    recipe = Copy(tmp_path, "polsess/sep1", drawn=False)
    root = fake_polsess.make(tmp_path / "PolSESS_C_tiny", test=1)
    tiny = "model.params.hidden_dim=8 model.params.num_blocks=1 train.max_steps=2 train.batch_size=2"
    options = ["--root", str(root), "--nj", "1", "--nproc", "1", "--overrides", f"{tiny} train.num_workers=0"]
    for conf, goal, lines in (("sb_dprnn", "sb", 10), ("es", "es", 4)):
        for expected in ("", "nothing to do"):
            result = recipe.run(*options, "--conf", f"conf/{conf}.yaml", TSE_PYTHON=sys.executable)
            assert result.returncode == 0 and expected in result.stderr + result.stdout, result.stderr
        scores = recipe.path(f"exp/{conf}/test_{goal}/scores.jsonl").read_text().splitlines()
        assert len(scores) == lines  # one mixture indoors: five variants with two sources, or four
    results = recipe.path("RESULTS.md").read_text()
    assert "## es" in results and "## sb_dprnn" in results and "| variant SER |" in results


@pytest.mark.parametrize(
    ("name", "experiment", "sizes", "scored"),
    [
        ("sep1", "sepmamba", "dim=4 num_blocks=1", 4),  # sources
        ("tse1", "v8", "dim=4 num_blocks=1 num_heads=2 enroll_dim=4 enroll_blocks=1", 4),  # targets
    ],
)
def test_wsj0_2mix(tmp_path, name, experiment, sizes, scored):
    """From the corpus to the results; the test speakers are in no other set."""
    recipe = Copy(tmp_path, f"wsj0_2mix/{name}", drawn=False)
    root, mixtures, lists = fake_wsj0_2mix.make(tmp_path / "the corpora")
    tiny = [f"model.params.{size}" for size in sizes.split()]
    tiny += [f"train.{value}" for value in ("max_steps=2", "batch_size=2", "num_workers=0", "warmup_steps=0")]
    tiny += ["simulation.segment_s=0.5"]
    tiny += ["simulation.enroll_s=0.5", "train.restart_at=[]"] if name == "tse1" else []
    options = ["--root", str(root), "--mixtures", str(mixtures), "--nj", "1", "--nproc", "1"]
    options += ["--enrolls", str(lists)] if name == "tse1" else []
    for expected in ("", "nothing to do"):
        result = recipe.run(*options, "--overrides", " ".join(tiny), TSE_PYTHON=sys.executable)
        assert result.returncode == 0 and expected in result.stderr + result.stdout, result.stderr
    assert recipe.path("data/train/packed").is_dir()
    assert len(recipe.path(f"exp/{experiment}/test/scores.jsonl").read_text().splitlines()) == scored
    assert f"## {experiment}" in recipe.path("RESULTS.md").read_text()


def test_drums(tmp_path):
    """From one-shots, MIDI and tracks to the results of a teacher and its student; also of whole tracks."""
    pytest.importorskip("mido")
    recipe = Copy(tmp_path, "drums/sep1", drawn=False)
    root = fake_drums.make(tmp_path / "drums")
    fake_drums.make_tracks(root / "stems_rendered", splits=("train", "test"), rate=44100)
    path = recipe.path("conf/sets.yaml")
    sets = yaml.safe_load(path.read_text())
    for name in ("dev", "test"):
        sets["sets"][name] |= {"num_mixtures": 2, "simulation": {**sets["sets"][name]["simulation"], "segment_s": 1.0}}
    path.write_text(yaml.safe_dump(sets))
    for name in ("small", "student"):
        conf = recipe.path(f"conf/{name}.yaml")
        values = yaml.safe_load(conf.read_text())
        values["model"]["params"] |= {"num_channels": 4, "dim_f": 256, "n_fft": 512, "hop_length": 256}
        values["train"] |= {"max_steps": 2, "warmup_steps": 0}
        conf.write_text(yaml.safe_dump(values))
    options = ["--corpus", str(root), "--tracks", str(root / "stems_rendered"), "--finetune", "conf/student.yaml"]
    for expected in ("", "nothing to do"):
        result = recipe.run(*options, "--nj", "1", "--nproc", "1", TSE_PYTHON=sys.executable)
        assert result.returncode == 0 and expected in result.stderr + result.stdout, result.stderr
    for experiment in ("small", "student"):
        for name in ("test", "test_clips"):
            scores = recipe.path(f"exp/{experiment}/{name}/scores.jsonl").read_text().splitlines()
            assert len(scores) == 2 * 5
        assert recipe.path(f"exp/{experiment}/test/wav/hihat").is_dir()
    results = recipe.path("RESULTS.md").read_text()
    assert "| experiment | set | mean | kick | snare | toms | hihat | cymbals |" in results and "## student" in results
    report = recipe.path("exp/small/report/index.html").read_text()
    assert "SDR, mean of the stems" in report and "Of each stem the median by SDR" in report and "audio/wav" in report
    assert "confused" not in report, "each stem has an output of its own"


def read_tables_at(folder: Path):
    utterances = read_data_dir(folder)
    assert isinstance(utterances, PackedUtterances) == (folder / "packed").is_dir()
    return utterances
