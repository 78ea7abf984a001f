"""Drum stems with a published MDX23C checkpoint and its YAML: what goes in and what comes out."""

import os
import shutil

import numpy as np
import pytest
import soundfile
import torch
import yaml

from tse_lib import audio
from tse_lib.bin.main import main
from tse_lib.hub import complete, mdx23c
from tse_lib.hub.names import to_published
from tse_lib.models import build_model

RATE = 44100
STEMS = ["kick", "snare", "toms"]
PARAMS = {
    "num_sources": 3, "n_fft": 128, "hop_length": 32, "dim_f": 64, "num_channels": 4, "growth": 2, "num_scales": 2,
    "num_subbands": 2, "bottleneck_factor": 2,
}  # fmt: skip
MISSING, BAD_DATA = 3, 4


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with drumsep.ckpt, as torch.save wrote a network's tensors, and drumsep.yaml: chunks of 0.5 s."""
    folder = tmp_path_factory.mktemp("drumsep")
    torch.manual_seed(0)
    weights = build_model("tfc_tdf", PARAMS, RATE, task=None).state_dict()
    full = complete("tfc_tdf", PARAMS)
    torch.save(to_published(weights, mdx23c.names_of("tfc_tdf", full)), folder / "drumsep.ckpt")
    config = mdx23c.config_of(full, STEMS, RATE)
    config["audio"] |= {"chunk_size": 32 * 687, "dim_t": 688}
    config["inference"] |= {"dim_t": 344}
    (folder / "drumsep.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def tse(tmp_path, monkeypatch, capsys, published):
    """Run `tse separate` in a folder of the published files and a stereo song of 1.2 s: (exit code, stdout, stderr)."""
    for file in published.iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    audio.write("song.wav", noise(2, round(1.2 * RATE)), RATE)

    def run(*words, model="drumsep.ckpt", config="drumsep.yaml"):
        given = ["--model", model, "--config", config, "-o", "stems", "--device", "cpu"]
        return main(["separate", *map(str, words), *given]), *capsys.readouterr()

    return run


def noise(*shape):
    return 0.1 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def stems_of(name, folder="stems"):
    return [audio.read(f"{folder}/{name}_{stem}.wav", mono=False)[0] for stem in STEMS]


def assert_refused(result, *told, code=BAD_DATA):
    line = result[2].splitlines()[-1]
    assert result[0] == code and line.startswith("tse separate: error: "), result
    for text in told:
        assert text in line, line
    assert not os.path.exists("stems") or not os.listdir("stems")


def test_stems_are_those_of_the_yaml(tse):
    code, out, err = tse("song.wav")
    assert code == 0, err
    assert sorted(os.listdir("stems")) == [f"song_{stem}.wav" for stem in sorted(STEMS)]
    assert "MDX23C (kick, snare, toms); chunks of 21,984 samples, 0.50 s, by audio.chunk_size" in out
    assert "inference.dim_t would be 0.25 s, --chunk_s" in out
    assert all(wave.shape == (2, 52920) and wave.any() for wave in stems_of("song"))


def test_a_packed_model_of_it_gives_the_same(tse):
    assert main(["convert", "drumsep.ckpt", "--config", "drumsep.yaml", "-o", "packed"]) == 0
    assert tse("song.wav")[0] == 0
    assert main(["separate", "song.wav", "--model", "packed", "-o", "again", "--device", "cpu"]) == 0
    for wave, again in zip(stems_of("song"), stems_of("song", "again"), strict=True):
        np.testing.assert_array_equal(wave, again)


def test_only_the_wanted_stems_and_the_rest(tse):
    assert tse("song.wav", "--stems", "snare", "kick", "--rest")[0] == 0
    assert sorted(os.listdir("stems")) == ["song_kick.wav", "song_rest.wav", "song_snare.wav"]


def test_mono_goes_through_a_network_of_two_channels(tse):
    wave = noise(30000)
    audio.write("mono.wav", wave, RATE)
    audio.write("both.wav", np.stack([wave, wave]), RATE)
    assert tse("mono.wav", "both.wav")[0] == 0
    for mono, both in zip(stems_of("mono"), stems_of("both"), strict=True):
        assert mono.shape == (1, 30000)
        np.testing.assert_allclose(mono[0], both.mean(0), rtol=0, atol=1e-6)


def test_another_rate_comes_back_at_its_own(tse):
    audio.write("low.wav", noise(2, 9001), 8000)
    assert tse("low.wav")[0] == 0
    assert audio.info("stems/low_kick.wav") == (8000, 9001, 2)


def test_formats_of_the_input_do_not_matter(tse):
    wave = noise(2, 30000)
    soundfile.write("float.wav", wave.T, RATE, subtype="FLOAT")
    soundfile.write("double.wav", wave.T, RATE, subtype="DOUBLE")
    soundfile.write("pcm.flac", wave.T, RATE, subtype="PCM_24")
    assert tse("float.wav", "double.wav", "pcm.flac")[0] == 0
    for one, two, three in zip(stems_of("float"), stems_of("double"), stems_of("pcm"), strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_allclose(one, three, rtol=0, atol=1e-3)


def test_silence_gives_silence_and_a_clip_of_100_ms_its_length(tse):
    audio.write("silent.wav", np.zeros((2, 60000), np.float32), RATE)
    audio.write("short.wav", noise(2, 4410), RATE)
    assert tse("silent.wav", "short.wav")[0] == 0
    assert not any(wave.any() for wave in stems_of("silent"))
    assert all(wave.shape == (2, 4410) and np.isfinite(wave).all() for wave in stems_of("short"))


def test_what_is_no_longer_than_a_chunk_is_one_chunk(tse, monkeypatch):
    """The whole clip goes through the network once, whatever the overlap."""
    audio.write("short.wav", noise(2, 21984), RATE)
    audio.write("longer.wav", noise(2, 21985), RATE)
    calls = []
    forward = torch.nn.Module.__call__

    def counted(module, *args, **kwargs):
        if type(module).__name__ == "TFCTDFNetwork" and args[0].device.type != "meta":  # by which memory is told
            calls.append(len(args[0]))
        return forward(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", counted)
    for name in ("short", "longer"):
        calls.clear()
        assert tse(f"{name}.wav", "--overlap_count", "8")[0] == 0
        assert (sum(calls) == 1) == (name == "short"), calls


def test_more_than_two_channels_are_refused(tse):
    audio.write("six.wav", noise(6, 30000), RATE)
    assert_refused(tse("six.wav"), "6 channels; this network takes 2, or one")


def test_wrong_files(tse):
    assert_refused(tse("nowhere.wav"), "nowhere.wav: no such audio file", code=MISSING)
    assert_refused(tse("song.wav", model="nowhere.ckpt"), "nowhere.ckpt: no such file", code=MISSING)
    assert_refused(tse("song.wav", config="nowhere.yaml"), "nowhere.yaml: no such configuration", code=MISSING)
    soundfile.write("cut.wav", noise(30000), RATE, subtype="PCM_16")
    os.truncate("cut.wav", 10000)
    assert_refused(tse("cut.wav"), "cut.wav: truncated")


def test_a_wrong_checkpoint(tse):
    torch.save({"conv.weight": torch.zeros(3, 3)}, "other.ckpt")
    assert_refused(tse("song.wav", model="other.ckpt"), "other.ckpt: not recognised", "conv.weight")
    weights = torch.load("drumsep.ckpt", weights_only=True)
    torch.save({key: value for key, value in weights.items() if "bottleneck" not in key}, "less.ckpt")
    assert_refused(tse("song.wav", model="less.ckpt"), "less.ckpt: tensors do not fit; 26 missing", "bottleneck_block")
    os.truncate("drumsep.ckpt", os.path.getsize("drumsep.ckpt") // 2)
    assert_refused(tse("song.wav"), "drumsep.ckpt")


def test_a_checkpoint_without_its_yaml_says_what_is_missing(tse, capsys):
    assert main(["separate", "song.wav", "--model", "drumsep.ckpt", "-o", "stems"]) == BAD_DATA
    assert "not a checkpoint of this toolkit" in (told := capsys.readouterr().err) and "--config" in told


def test_a_wrong_yaml(tse):
    with open("roformer.yaml", "w") as file:
        file.write("audio: {num_channels: 2, n_fft: 128, hop_length: 32, dim_f: 64}\nmodel: {dim: 192, depth: 6}\n")
    assert_refused(tse("song.wav", config="roformer.yaml"), "section `model`: unknown option 'dim'")
    with open("broken.yaml", "w") as file:
        file.write("audio: [\n")
    assert_refused(tse("song.wav", config="broken.yaml"), "broken.yaml: not YAML")
