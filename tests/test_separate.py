"""`tse separate`: files of any kind in, whole files out, in memory that does not grow with their length."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

import tse_lib
from tests import tiny
from tests.test_separator import PARAMS, conf_of
from tse_lib import audio, checkpoint
from tse_lib.bin.main import main
from tse_lib.inference import memory, separator
from tse_lib.inference.separator import Separator
from tse_lib.models import build_model
from tse_lib.models.conv_tasnet import ConvTasNet

RATE = 8000
MISSING, BAD_DATA = 3, 4


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "best.pt"
    torch.manual_seed(0)
    weights = build_model("conv_tasnet", PARAMS, RATE, "separate").state_dict()
    conf = conf_of(chunk_s=0.5, source_names=["kick", "hi-hat"]).model_dump()
    checkpoint.save(path, {"modules": {"model": weights}, "step": 1, "config": conf})
    return path


@pytest.fixture
def tse(tmp_path, monkeypatch, capsys, model):
    """Run `tse separate` in an empty folder that holds a 3 s mixture: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    audio.write("mix.wav", tiny.voice("a-0", 3 * RATE) + tiny.voice("b-0", 3 * RATE), RATE)

    def run(*words, out="out"):
        code = main(["separate", *map(str, words), "--model", str(model), "-o", out, "--device", "cpu"])
        return code, *capsys.readouterr()

    return run


def written():
    return sorted(os.listdir("out")) if os.path.exists("out") else []


def assert_refused(result, *told, code=BAD_DATA):
    *bars, line = result[2].splitlines()
    assert result[0] == code and line.startswith("tse separate: error: "), result
    for text in told:
        assert text in line
    assert all(not bar or "%|" in bar for bar in bars) and not written()


# ---------------------------------------------------------------------------------------- what is written


def test_sources_are_named_and_equal_those_of_the_library(tse, model):
    code, out, err = tse("mix.wav")
    assert code == 0 and written() == ["mix_hi-hat.wav", "mix_kick.wav"]
    assert "memory: about" in out and "mix.wav: 3.0 s, 1 channel(s), 8000 Hz -> out/mix_kick.wav" in out
    assert "mix.wav: " in err and "3/3 s" in err  # the bar
    expected = tse_lib.load(model).separate(audio.read("mix.wav")[0], RATE)
    for name, wave in zip(("kick", "hi-hat"), expected, strict=True):
        np.testing.assert_allclose(audio.read(f"out/mix_{name}.wav")[0], wave, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stems", [["hi-hat"], ["2"], ["2", "hi-hat"]])
def test_only_the_wanted_stems(tse, stems):
    assert tse("mix.wav", "--stems", *stems)[0] == 0 and written() == ["mix_hi-hat.wav"]


def test_a_stem_that_is_not_there(tse):
    assert_refused(tse("mix.wav", "--stems", "snare"), "--stems snare: the model has kick, hi-hat")


@pytest.mark.parametrize(
    ("words", "kind", "subtype"),
    [
        ([], "WAV", "FLOAT"),
        (["--subtype", "PCM_24"], "WAV", "PCM_24"),
        (["--format", "flac"], "FLAC", "PCM_24"),
        (["--format", "flac", "--subtype", "PCM_16"], "FLAC", "PCM_16"),
    ],
)
def test_formats_rate_channels_and_tags(tse, words, kind, subtype):
    wave = np.random.default_rng(0).standard_normal((44101, 2)) * 0.1
    with soundfile.SoundFile("song.flac", "w", 44100, 2, "PCM_24", format="FLAC") as file:
        file.title, file.artist = "data é 混", "somebody"
        file.write(wave)
    assert tse("song.flac", *words)[0] == 0
    for name in ("kick", "hi-hat"):
        with soundfile.SoundFile(f"out/song_{name}.{kind.lower()}") as file:
            assert (file.format, file.subtype, file.samplerate, file.channels) == (kind, subtype, 44100, 2)
            assert file.frames == 44101 and (file.title, file.artist) == ("data é 混", "somebody")


def test_the_same_file_twice_is_the_same_bytes(tse):
    with soundfile.SoundFile("song.wav", "w", RATE, 1, "FLOAT") as file:
        file.title = "x" * 300  # then the time that libsndfile notes lies far from the beginning
        file.write(audio.read("mix.wav")[0])
    assert tse("song.wav")[0] == tse("song.wav", out="again")[0] == 0
    with open("out/song_kick.wav", "rb") as file:
        data = file.read()
    place = data.index(b"PEAK")
    assert place > 300 and data[place + 12 : place + 16] == bytes(4)
    with open("again/song_kick.wav", "rb") as file:
        assert file.read() == data


def test_what_does_not_fit_full_scale_is_clipped_and_told(tse, monkeypatch):
    loud = lambda self, blocks, *_: (np.stack([block * 0 + 2, block]) for block in blocks)  # noqa: E731
    monkeypatch.setattr(Separator, "separate_blocks", loud)
    code, out, _ = tse("mix.wav", "--subtype", "PCM_24")
    assert code == 0 and "mix_kick.wav: 24000 samples above full scale were clipped (peak 2.00)" in out
    assert audio.read("out/mix_kick.wav")[0].min() == pytest.approx(1, abs=1e-6)
    assert tse("mix.wav")[0] == 0 and audio.read("out/mix_kick.wav")[0].min() == 2


def test_very_long_wavs_are_rf64(tse, monkeypatch):
    monkeypatch.setattr(audio, "WAV_BYTES", 80000)
    assert tse("mix.wav")[0] == 0
    assert soundfile.info("out/mix_kick.wav").format == "RF64" and audio.info("out/mix_kick.wav").num_samples == 24000


def test_many_files_in_any_order(tse):
    for number, size in enumerate((24000, 700, 9001)):
        audio.write(f"{number}.flac", np.stack([tiny.voice(f"{channel}-{number}", size) for channel in "ab"]), RATE)
    assert tse("0.flac", "1.flac", "2.flac")[0] == 0
    assert tse("2.flac", "0.flac", "1.flac", "--batch_size", "3", out="other")[0] == 0
    for name in written():
        first, other = (audio.read(f"{folder}/{name}", mono=False)[0] for folder in ("out", "other"))
        assert first.shape == other.shape and np.square(first - other).sum() <= 1e-10 * np.square(first).sum()


@pytest.mark.parametrize("stems", [("kick", "hi-hat"), ("kick",)])
def test_the_rest_makes_the_recording_whole(tse, stems):
    """Of the stems that are written and the rest, the sum is the recording."""
    wave = np.stack([tiny.voice(f"{channel}-0", 50001) for channel in "ab"])
    audio.write("song.wav", wave, 44100)
    assert tse("song.wav", "--rest", "--stems", *stems)[0] == 0
    assert sorted(written()) == sorted(f"song_{name}.wav" for name in (*stems, "rest"))
    parts = [audio.read(f"out/song_{name}.wav", mono=False)[0] for name in (*stems, "rest")]
    np.testing.assert_allclose(sum(parts), wave, rtol=0, atol=1e-6)


def test_sources_that_are_made_to_sum_to_the_recording(tse):
    assert tse("mix.wav", "--sum_to_mixture", "--quality", "fast")[0] == 0
    parts = [audio.read(f"out/mix_{name}.wav", mono=False)[0] for name in ("kick", "hi-hat")]
    np.testing.assert_allclose(sum(parts), audio.read("mix.wav", mono=False)[0], rtol=0, atol=1e-5)
    assert tse("mix.wav", "--quality", "fast", out="without")[0] == 0
    without = [audio.read(f"without/mix_{name}.wav", mono=False)[0] for name in ("kick", "hi-hat")]
    assert np.abs(sum(without) - sum(parts)).max() > 1e-3


@pytest.mark.parametrize(
    ("words", "num_chunks"),
    [
        ([], 13),  # of 0.5 s in 3 s, by the model's overlap_count 2
        (["--quality", "best"], 55),
        (["--quality", "balanced"], 13),
        (["--quality", "fast"], 7),
        (["--quality", "fast", "--overlap_count", "4"], 27),
        (["--quality", "best", "--crossfade", "0.4"], 10),
        (["--overlap_count", "1", "--level", "model", "--crossfade", "0.4"], 10),
    ],
)
def test_the_quality_is_how_often_each_sample_is_computed(tse, monkeypatch, words, num_chunks):
    counted, forward = [], ConvTasNet.forward

    def counting(self, mixture):
        counted.append(len(mixture))
        return forward(self, mixture)

    monkeypatch.setattr(ConvTasNet, "forward", counting)
    monkeypatch.setattr(Separator, "fit_memory", lambda self, settings, *_: (settings, "not asked"))
    assert tse("mix.wav", *words)[0] == 0 and sum(counted) == num_chunks


def test_a_crossfade_of_chunks_that_overlap_anyway(tse):
    told = "crossfade is for overlap_count 1; here chunks overlap 4 times"
    assert_refused(tse("mix.wav", "--overlap_count", "4", "--crossfade", "0.1"), told)


# ---------------------------------------------------------------------------------------- odd and broken inputs


@pytest.mark.parametrize("size", [1, 80, 800])
def test_short_clips(tse, size):
    audio.write("short.wav", np.full(size, 0.1, np.float32), 44100)
    assert tse("short.wav")[0] == 0 and audio.info("out/short_kick.wav") == (44100, size, 1)


def test_silence_gives_silence(tse):
    audio.write("silent.wav", np.zeros((2, 9000), np.float32), RATE)
    assert tse("silent.wav")[0] == 0 and not audio.read("out/silent_kick.wav", mono=False)[0].any()


def test_broken_inputs(tse):
    soundfile.write("cut.wav", np.zeros(4000) + 0.1, RATE, subtype="PCM_16")
    os.truncate("cut.wav", 5000)
    assert_refused(tse("mix.wav", "cut.wav"), "cut.wav: truncated, 5000 of 8044 bytes")  # before anything is done
    soundfile.write("cut.flac", tiny.voice("a-0", 600000), RATE)
    os.truncate("cut.flac", os.path.getsize("cut.flac") // 2)
    assert_refused(tse("cut.flac"), "cut.flac", "truncated")
    soundfile.write("nan.wav", np.array([0.1, float("nan")] * 9000, np.float32), RATE, subtype="FLOAT")
    assert_refused(tse("nan.wav"), "nan.wav: holds NaN")
    assert_refused(tse("nowhere.wav"), "nowhere.wav: no such audio file", code=MISSING)


def test_a_name_that_is_not_utf_8(tse, model):
    """As of an archive that was packed on another system. In a process of its own: its output is encoded."""
    name = os.fsdecode(b"bl\xe4u")
    soundfile.write("as-it-was.wav", tiny.voice("a-0", RATE), RATE, subtype="FLOAT")
    os.rename("as-it-was.wav", f"{name}.wav")
    words = ["separate", f"{name}.wav", "mix.wav", "--model", str(model), "-o", "out", "--device", "cpu"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONIOENCODING": "UTF-8"}  # as of path.sh
    done = subprocess.run([sys.executable, "-m", "tse_lib.bin.main", *words], env=env, capture_output=True)
    assert done.returncode == 0 and rb"bl\udce4u.wav: 1.0 s" in done.stdout, done.stderr
    assert written() == sorted(f"{stem}_{source}.wav" for stem in (name, "mix") for source in ("kick", "hi-hat"))


def test_an_input_is_never_overwritten(tse):
    os.mkdir("out")
    os.rename("mix.wav", "out/mix.wav")
    shutil.copy("out/mix.wav", "out/mix_kick.wav")
    result = tse("out/mix.wav", "out/mix_kick.wav")
    assert result[0] == BAD_DATA and "mix_kick.wav: the output would overwrite an input" in result[2]
    assert written() == ["mix.wav", "mix_kick.wav"]


def test_two_inputs_of_one_name(tse):
    os.mkdir("other")
    shutil.copy("mix.wav", "other/mix.wav")
    assert_refused(tse("mix.wav", "other/mix.wav"), "mix: several inputs of this name")


def test_flac_holds_no_floats(tse):
    assert_refused(tse("mix.wav", "--format", "flac", "--subtype", "FLOAT"), "not as FLOAT")


def test_a_model_of_the_other_task(tse, checkpoint_path, model, capsys):
    code = main(["separate", "mix.wav", "--model", str(checkpoint_path), "-o", "out"])
    assert code == BAD_DATA
    assert_refused((code, *capsys.readouterr()), "a network that extracts; use tse extract")
    assert main(["extract", "mix.wav", "--enroll", "mix.wav", "--model", str(model), "-o", "out.wav"]) == BAD_DATA
    assert "use tse separate" in capsys.readouterr().err


def test_a_killed_run_leaves_nothing_under_the_names(tse, monkeypatch):
    def killed(self, blocks, *_):
        yield np.zeros((2, 1, 100), np.float32)
        raise KeyboardInterrupt

    monkeypatch.setattr(Separator, "separate_blocks", killed)
    assert tse("mix.wav")[0] == 130 and not written()


# ---------------------------------------------------------------------------------------- memory


def test_the_batch_shrinks_to_what_fits(tse, monkeypatch):
    monkeypatch.setattr(separator, "available_bytes", lambda device: 30 * 2**20)
    code, out, _ = tse("mix.wav", "--batch_size", "1000")
    assert code == 0 and "at once instead of 1000" in out
    monkeypatch.setattr(separator, "available_bytes", lambda device: 100 * 2**10)
    shutil.rmtree("out")
    assert_refused(tse("mix.wav"), "for a chunk of 0.5 s, 1 channel(s)", "not enough; a shorter chunk_s takes less")


def test_the_estimate_of_a_network_whose_need_is_known():
    """Ten copies live at once, and a matrix of all pairs of samples: linear and square parts are told."""

    def process(chunks):
        copies = [chunks + number for number in range(10)]
        pairs = chunks[0, 0, :, None] * chunks[0, 0]
        return copies, pairs

    size = 4096
    told = memory.bytes_of_chunk(process, torch.zeros(1, 1, size // 8), [])
    assert told == pytest.approx(4 * (10 * size + size**2), rel=0.01)


def test_weights_are_not_counted():
    layer = nn.Linear(1000, 1000)
    told = memory.peak_bytes(lambda x: x @ layer.weight.T, torch.zeros(1, 1, 1000), list(layer.parameters()))
    assert told == 4000


def test_free_memory(tmp_path, monkeypatch):
    """The least of what the system and the control group have left; file cache counts as free."""
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    cpu = torch.device("cpu")
    assert memory.available_bytes(cpu) is None
    (tmp_path / "self").mkdir()
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    (tmp_path / "self/cgroup").write_text("3:cpu:/x\n0::/job/step\n")
    assert memory.available_bytes(cpu) == 5000 * 1024
    group = tmp_path / "groups/job/step"
    group.mkdir(parents=True)
    for name, text in (("memory.max", "1000000"), ("memory.current", "700000"), ("memory.stat", "inactive_file 500")):
        (group / name).write_text(text + "\n")
    assert memory.available_bytes(cpu) == 300500
    (group / "memory.max").write_text("max\n")
    assert memory.available_bytes(cpu) == 5000 * 1024
    for name, text in (("memory.max", "900000"), ("memory.current", "700000")):  # a job's limit, not its step's
        (group.parent / name).write_text(text + "\n")
    assert memory.available_bytes(cpu) == 200000
    (group.parent / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 300\n")  # version 1
    assert memory.available_bytes(cpu) == 200300


CHILD = """
import json, resource, sys
from pathlib import Path
import torch
from tests.test_chunked import Halves
from tests.test_separator import conf_of
from tse_lib.bin.separate import separate_file
from tse_lib.inference.separator import Separator

class Scrambled(Halves):
    generator = torch.manual_seed(0)
    num_swapped = 0

    def forward(self, mixture):
        sources = super().forward(mixture)
        for item in range(len(mixture)):
            for channel in range(mixture.shape[1]):
                if torch.rand((), generator=self.generator) < 0.5:
                    sources[item, :, channel] = sources[item, :, channel].flip(0)
                    self.num_swapped += 1
        return sources

torch.set_num_threads(1)
chunk_s, stem = float(sys.argv[1]), sys.argv[2]
model = {"scrambled": Scrambled(), "plain": Halves()}[stem]
conf = conf_of(chunk_s=chunk_s, batch_size=4, level="model", stitch=stem == "scrambled")
outputs = {place: Path(f"{stem}_{place}.wav") for place in range(2)}
separator = Separator(model, conf)
separator.separate(torch.zeros(100), 44100)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
before = peak()
separate_file(separator, "long.wav", outputs, "FLOAT", conf.inference)
print(json.dumps({"mib": peak() - before, "num_swapped": getattr(model, "num_swapped", 0)}))
"""


@pytest.mark.parametrize(
    ("minutes", "chunk_s", "most_mib"), [(0.5, 2, 100), pytest.param(30, 30, 600, marks=pytest.mark.slow)]
)
def test_a_long_recording_has_no_seam_and_no_swap(tmp_path, minutes, chunk_s, most_mib):
    """44.1 kHz stereo through a network of 8 kHz whose chunks come out swapped at random, each channel by itself."""
    generator, num_samples = np.random.default_rng(0), round(minutes * 60 * 44100)
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 44100, 2, "PCM_16") as file:
        for first in range(0, num_samples, 1 << 20):
            noise = generator.standard_normal((min(1 << 20, num_samples - first), 1)).cumsum(0)
            wave = np.diff(noise, axis=0, prepend=0) * 0.05 + 0.1 * np.sin(noise / 30)
            file.write(wave * [1, 0.6])
    told = {}
    for stem in ("plain", "scrambled"):
        command = [sys.executable, "-c", textwrap.dedent(CHILD), str(chunk_s), stem]
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        result = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}
        )
        assert result.returncode == 0, result.stderr
        told[stem] = json.loads(result.stdout.splitlines()[-1])
    assert told["scrambled"]["num_swapped"] > minutes * 60 / chunk_s
    assert told["scrambled"]["mib"] < most_mib, told
    orders = []
    for order in ((0, 1), (1, 0)):
        error = power = 0.0
        for place in range(2):
            pair = [audio.read_blocks(tmp_path / f"plain_{place}.wav")]
            pair.append(audio.read_blocks(tmp_path / f"scrambled_{order[place]}.wav"))
            for plain, scrambled in zip(*pair, strict=True):
                error += float(np.square(plain - scrambled).sum())
                power += float(np.square(plain).sum())
            assert audio.info(tmp_path / f"scrambled_{place}.wav") == (44100, num_samples, 2)
        orders.append(10 * np.log10(error / power + 1e-30))
    assert min(orders) < -100 and max(orders) > -10
