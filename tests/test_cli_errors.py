"""What users get wrong: one line that says what and where, an exit code, and nothing half-written."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
import torch
import yaml

from tests import tiny
from tse_lib import audio
from tse_lib.bin import extract
from tse_lib.bin.main import main, one_line
from tse_lib.files import replace_file
from tse_lib.inference.extractor import Extractor

RATE = tiny.RATE
MISSING, BAD_DATA = 3, 4


@pytest.fixture
def folder(tmp_path, monkeypatch, checkpoint_path):
    """The working folder: a model, a mixture and an enrolment."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(checkpoint_path, "best.pt")
    audio.write("mix.wav", tiny.voice("a-0", 4000) + tiny.voice("b-0", 4000), RATE)
    audio.write("enroll.wav", tiny.voice("a-1", 3000), RATE)
    return tmp_path


@pytest.fixture
def tse(capsys):
    """Run a verb in this process: (exit code, stdout, stderr)."""

    def run(*words):
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def extract_words(mixture="mix.wav", enroll=("enroll.wav",), model="best.pt", out="out.wav"):
    return ["extract", mixture, "--enroll", *enroll, "--model", model, "-o", out, "--device", "cpu"]


def files():
    return sorted(name for _, _, names in os.walk(".") for name in names)


def assert_one_line(err, verb, *told):
    *bars, line = err.splitlines()
    assert line.startswith(f"tse {verb}: error: ") and err.endswith("\n"), err
    assert all(not bar or "%|" in bar for bar in bars), err  # a progress bar may have begun
    for text in told:
        assert text in line
    assert "Traceback" not in err


def assert_refused(result, *told, code=BAD_DATA, verb="extract", before=None):
    got, out, err = result
    assert got == code, (got, err)
    assert_one_line(err, verb, *told)
    assert not os.path.exists("out.wav") and not [name for name in files() if name.startswith(".partial")]
    assert before is None or files() == before


def write_pcm(path, wave, rate=RATE):
    soundfile.write(path, wave, rate, subtype="PCM_16")


# ---------------------------------------------------------------------------------------- broken recordings


def empty(path):
    open(path, "w").close()


def truncated(path):
    write_pcm(path, np.zeros(4000) + 0.1)
    with open(path, "r+b") as file:
        file.truncate(5000)


def text(path):
    with open(path, "w") as file:
        file.write("dear diary\n" * 50)


def no_samples(path):
    write_pcm(path, np.zeros(0))


def not_finite(path):
    soundfile.write(path, np.array([0.1, float("nan"), 0.1] * 500, dtype=np.float32), RATE, subtype="FLOAT")


def silent(path):
    write_pcm(path, np.zeros(4000))


def missing(path):
    if os.path.exists(path):
        os.unlink(path)


def a_folder(path):
    missing(path)
    os.mkdir(path)


BROKEN = [
    (empty, "empty file (0 bytes)", BAD_DATA),
    (truncated, "truncated, 5000 of 8044 bytes", BAD_DATA),
    (text, "not an audio file", BAD_DATA),
    (no_samples, "holds no samples", BAD_DATA),
    (not_finite, "NaN or infinite samples", BAD_DATA),
    (silent, "silent (no sample above -80 dBFS)", BAD_DATA),
    (missing, "no such audio file", MISSING),
    (a_folder, "is a folder", BAD_DATA),
]


@pytest.mark.parametrize("which", ["mix.wav", "enroll.wav"])
@pytest.mark.parametrize(("make", "told", "code"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_broken_recordings(folder, tse, which, make, told, code):
    make(which)
    assert_refused(tse(*extract_words()), which, told, code=code)


def test_one_broken_enrolment_of_several(folder, tse):
    silent("second.wav")
    assert_refused(tse(*extract_words(enroll=("enroll.wav", "second.wav"))), "second.wav", "silent")


# ---------------------------------------------------------------------------------------- odd ones that work


def test_each_channel_of_a_stereo_mixture_is_extracted(folder, tse):
    left, right = tiny.voice("a-0", 4000), tiny.voice("b-0", 4000)
    audio.write("stereo.wav", np.stack([left, right]), RATE)
    for name, wave in (("left", left), ("right", right)):
        audio.write(f"{name}.wav", wave, RATE)
        assert tse(*extract_words(f"{name}.wav", out=f"out_{name}.wav"))[0] == 0
    code, out, _ = tse(*extract_words("stereo.wav"))
    assert code == 0 and "2 channel(s)" in out
    both = audio.read("out.wav", mono=False)[0]
    for channel, name in enumerate(("left", "right")):
        np.testing.assert_allclose(both[channel], audio.read(f"out_{name}.wav")[0], rtol=1e-4, atol=1e-6)


def test_a_stereo_enrolment_is_mixed_down_with_a_warning(folder, tse):
    wave = audio.read("enroll.wav")[0]
    audio.write("stereo.wav", np.stack([wave, wave]), RATE)
    with pytest.warns(UserWarning, match="stereo.wav: 2 channels averaged to one"):
        assert tse(*extract_words(enroll=("stereo.wav",)))[0] == 0
    assert tse(*extract_words(out="mono.wav"))[0] == 0
    np.testing.assert_allclose(audio.read("out.wav")[0], audio.read("mono.wav")[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rate", [44100, 16000, 11025])
def test_other_sample_rates_are_resampled_and_kept(folder, tse, rate):
    audio.write("other.wav", tiny.voice("a-0", rate // 2, rate), rate)
    audio.write("enroll44.wav", tiny.voice("a-1", 20000, 44100), 44100)
    code, out, _ = tse(*extract_words("other.wav", enroll=("enroll44.wav", "enroll.wav")))
    assert code == 0 and f"other.wav: {rate} Hz, processed at the model's 8000 Hz" in out
    assert audio.info("out.wav") == (rate, rate // 2, 1)


@pytest.mark.parametrize("size", [1, 10, 63])
def test_recordings_shorter_than_a_frame(folder, tse, size):
    audio.write("short.wav", np.full(size, 0.1, np.float32), RATE)
    assert tse(*extract_words("short.wav", enroll=("short.wav", "enroll.wav")))[0] == 0
    assert audio.info("out.wav").num_samples == size


def test_names_with_anything_in_them(folder, tse):
    names = ['Müller\'s "Mix" 混音 $(x) ;&.wav', "  enroll  'é'.wav"]
    shutil.move("mix.wav", names[0])
    shutil.move("enroll.wav", names[1])
    os.mkdir("models – neu")
    shutil.move("best.pt", "models – neu/best.pt")
    words = extract_words(names[0], [names[1]], "models – neu/best.pt", "aus gabe/ö\"'.flac")
    assert tse(*words)[0] == 0
    assert audio.info("aus gabe/ö\"'.flac").num_samples == 4000


def test_a_flac_that_would_clip_is_lowered_and_says_so(folder, tse, monkeypatch):
    from tse_lib.inference.extractor import Extractor

    monkeypatch.setattr(Extractor, "extract", lambda self, mixture, *_, **__: mixture * 0 + np.float32(2))
    code, out, _ = tse(*extract_words(out="out.flac"))
    assert code == 0 and "lowered by 6.0 dB to fit full scale" in out
    assert audio.read("out.flac")[0].max() == pytest.approx(1, abs=1e-6)
    assert tse(*extract_words())[0] == 0 and audio.read("out.wav")[0].max() == 2


# ---------------------------------------------------------------------------------------- output


@pytest.mark.parametrize("out", ["mix.wav", "./mix.wav", "link.wav", "enroll.wav"])
def test_an_input_is_never_overwritten(folder, tse, out):
    os.symlink("mix.wav", "link.wav")
    before = open("mix.wav", "rb").read(), open("enroll.wav", "rb").read()
    assert_refused(tse(*extract_words(out=out)), "would overwrite an input")
    assert (open("mix.wav", "rb").read(), open("enroll.wav", "rb").read()) == before


@pytest.fixture
def instead_of_hours(monkeypatch):
    """What is to be told is told before anything is extracted."""
    monkeypatch.setattr(Extractor, "extract", None)


def test_an_output_of_another_kind(folder, tse, instead_of_hours):
    assert_refused(tse(*extract_words(out="out.mp3")), "out.mp3: can write .flac, .wav, not '.mp3'")


def test_an_output_folder_that_cannot_be(folder, tse, instead_of_hours):
    """A file stands where the folder should: as good as a read-only one, and it stops root too."""
    open("taken", "w").close()
    assert_refused(tse(*extract_words(out="taken/out.wav")), "taken", code=1)
    os.mkdir("folder.wav")
    assert_refused(tse(*extract_words(out="folder.wav")), "folder.wav: Is a directory", code=1)


def test_probabilities_that_cannot_be_written(folder, tse, monkeypatch, instead_of_hours):
    monkeypatch.setattr(extract, "calibration_of", lambda *_: None)
    os.mkdir("folder")
    assert_refused(tse(*extract_words(), "--presence", "folder"), "folder: Is a directory", code=1)


def test_a_folder_in_the_place_of_a_results_file(folder):
    """Of a renaming that fails the name that was asked for is told, not the temporary one."""
    os.mkdir("RESULTS.md")
    with pytest.raises(OSError) as caught, replace_file("RESULTS.md") as file:
        file.write("x")
    assert one_line(caught.value) == "RESULTS.md: Is a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_folder(folder, tse, instead_of_hours):
    os.mkdir("locked", 0o555)
    assert_refused(tse(*extract_words(out="locked/out.wav")), "locked", "Permission denied", code=1)


@contextmanager
def full_disk():
    """No file may grow beyond 4 kB; only around the command, since pytest's own output may be a longer file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(folder, tse):
    with full_disk():
        result = tse(*extract_words())
    assert_refused(result, "out.wav", "disk full?", code=1)


def test_a_full_disk_while_packing(folder, tse):
    with full_disk():
        code, _, err = tse("export", "--model", "best.pt", "--out", "packed")
    assert code == 1
    assert_one_line(err, "export", "packed")
    assert not os.path.exists("packed/model.yaml") and not os.path.exists("packed/model.safetensors")


# ---------------------------------------------------------------------------------------- models


def test_a_checkpoint_cut_short(folder, tse):
    data = open("best.pt", "rb").read()
    open("best.pt", "wb").write(data[: len(data) // 2])
    assert_refused(tse(*extract_words()), "best.pt: cut short or not a checkpoint")


class Attack:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("verb", ["extract", "convert", "export"])
def test_a_checkpoint_carrying_code(folder, tse, verb):
    torch.save({"version": 1, "generator": Attack()}, "evil.pt")
    words = {
        "extract": extract_words(model="evil.pt"),
        "convert": ["convert", "evil.pt", "-o", "packed"],
        "export": ["export", "--model", "evil.pt", "--out", "packed"],
    }
    assert_refused(tse(*words[verb]), "evil.pt: refused, it asks to run code", verb=verb)
    assert not os.path.exists("ran") and not os.path.exists("packed")


def test_a_model_that_is_not_there(folder, tse):
    assert_refused(tse(*extract_words(model="bets.pt")), "bets.pt: no such checkpoint", code=MISSING)
    os.mkdir("nothing")
    assert_refused(tse(*extract_words(model="nothing")), "model.yaml", code=MISSING)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(folder, tse):
    assert_refused(tse(*extract_words()[:-1], "cuda"), "torch sees no CUDA device")


@pytest.mark.parametrize("device", ["gpu", "cuda:one", "hip", "xpu"])
def test_a_device_that_torch_does_not_know(folder, tse, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert_refused(tse(*extract_words()[:-1], device), f"--device {device}: no device of this torch; auto, cpu")


def test_a_gpu_too_many(folder, tse, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert_refused(tse(*extract_words()[:-1], "cuda:1"), "--device cuda:1: there are 1 CUDA devices, counted from 0")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert_refused(tse(*extract_words()[:-1], "auto"), "--device cuda:1: there are 1 CUDA devices")


def test_fewer_threads_than_none(folder, tse):
    assert_refused(tse(*extract_words(), "--threads", "-1"), "--threads -1: at least 1, or 0 for torch's choice")


@pytest.mark.parametrize(
    "words", [["--chunk_s", "0"], ["--chunk_s", "inf"], ["--overlap_count", "0"], ["--batch_size", "-1"]]
)
def test_settings_that_cannot_be(folder, tse, words):
    assert_refused(tse(*extract_words(), *words), f"inference: {words[0].strip('-')}: Input should be ")


# ---------------------------------------------------------------------------------------- confs and data folders


@pytest.fixture
def data(folder, corpus_dir):
    shutil.copytree(corpus_dir, "data")
    open("conf.yaml", "w").write(yaml.safe_dump(tiny.values()))
    return folder


def train_words(*more):
    return ["train", "--conf", "conf.yaml", "--exp", "exp", "--noise", "noise", "--device", "cpu", *more]


def test_a_data_folder_that_is_not_there(data, tse):
    result = tse(*train_words("--train", "trian"))
    assert_refused(result, "data/trian: no data set here", code=MISSING, verb="train")
    assert not os.path.exists("exp")
    result = tse(*train_words("--dev", "test"))
    assert_refused(result, "data/test/mixtures.jsonl: no mixture list", code=MISSING, verb="train")


def test_duplicate_ids_in_a_data_folder(data, tse):
    with open("data/train/wav.scp") as file:
        first = file.readline()
    with open("data/train/wav.scp", "a") as file:
        file.write(first)
    assert_refused(tse(*train_words()), "data/train/wav.scp:16: duplicate id 'a-0'", verb="train")


def test_tables_that_do_not_agree(data, tse):
    lines = open("data/train/utt2spk").readlines()
    open("data/train/utt2spk", "w").writelines(lines[1:])
    assert_refused(tse(*train_words()), "utt2spk", "a-0", verb="train")


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("train.lrr=1", "unknown key 'train.lrr'; did you mean 'lr'"),
        ("model.params.blocks=1", "unknown option 'blocks'"),
        ("model.name=hifi", "unknown model 'hifi'; known: hifi_tse"),
        ("loss.0.name=sisdr", "unknown loss 'sisdr'"),
        ("simulation.num_talkers=9", "num_talkers: "),
    ],
)
def test_a_conf_that_cannot_be(data, tse, assignment, told):
    assert_refused(tse(*train_words("--set", assignment)), told, verb="train")
    assert not os.path.exists("exp/last.pt")


def test_a_missing_conf_lists_the_others(data, tse):
    result = tse(*train_words()[:1], "--conf", "cnof.yaml", "--exp", "exp")
    assert_refused(result, "cnof.yaml: no such configuration", "conf.yaml", code=MISSING, verb="train")


def test_training_talkers_in_the_development_set(data, tse):
    assert_refused(tse(*train_words("--train", "dev_speech")), "5 of its talkers are trained on", verb="train")


def test_a_training_recording_that_broke_meanwhile(data, tse):
    for number in range(3):
        empty(f"data/train/wav/a-{number}.wav")
    rewritten = open("data/train/wav.scp").read().replace(os.path.dirname(first_path()), "data/train/wav")
    open("data/train/wav.scp", "w").write(rewritten)
    code, _, err = tse(*train_words())
    assert code == BAD_DATA and "empty file (0 bytes)" in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("tse train: error: data/train/wav/a-")


def first_path():
    return open("data/train/wav.scp").readline().split(" ", 1)[1].rstrip("\n")


def test_sets_of_another_rate(data, tse):
    result = tse(*train_words("--set", "sample_rate=16000"))
    assert_refused(result, "has 8000 Hz, the model 16000 Hz", verb="train")


@pytest.mark.parametrize("job", ["3/2", "0/2", "x", "1"])
def test_shares_that_cannot_be(data, tse, job):
    result = tse("infer", "--model", "best.pt", "--data", "data/dev", "--out", "wav", "--job", job)
    assert_refused(result, f"--job {job}", verb="infer")


def test_inference_over_a_set(data, tse):
    code, out, _ = tse("infer", "--model", "best.pt", "--data", "data/dev", "--out", "wav", "--device", "cpu")
    assert code == 0 and len(os.listdir("wav")) == 4
    shares = [
        tse("infer", "--model", "best.pt", "--data", "data/dev", "--out", "two", "--job", f"{n}/2") for n in (1, 2)
    ]
    assert [code for code, _, _ in shares] == [0, 0] and sorted(os.listdir("two")) == sorted(os.listdir("wav"))


def test_simulate_again_keeps_audio_and_other_mixtures_drop_it(data, tse):
    simulation = {"num_mixtures": 2, "speech": "dev_speech", "noise": "noise", "simulation": tiny.SIMULATION}
    sets = {"seed": 3, "sample_rate": RATE, "sets": {"dev": simulation}}
    for seed, kept in ((3, False), (3, True), (4, False)):
        open("sets.yaml", "w").write(yaml.safe_dump({**sets, "seed": seed}))
        assert tse("simulate", "--conf", "sets.yaml")[0] == 0
        assert os.path.exists("data/dev/mixtures") == kept
        os.makedirs("data/dev/mixtures", exist_ok=True)
    assert [json.loads(line)["mix_id"] for line in open("data/dev/mixtures.jsonl")] == ["dev-00000", "dev-00001"]


# ---------------------------------------------------------------------------------------- as a user calls it


def run_process(*words):
    return subprocess.run(
        [sys.executable, "-m", "tse_lib.bin.main", *words], capture_output=True, text=True, check=False
    )


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def test_in_a_process_of_its_own(folder, importable):
    result = run_process(*extract_words())
    assert result.returncode == 0 and result.stderr == "" and "out.wav: 0.5 s, 1 channel(s), 8000 Hz" in result.stdout
    os.unlink("out.wav")
    text("mix.wav")
    result = run_process(*extract_words())
    assert_refused((result.returncode, result.stdout, result.stderr), "mix.wav: not an audio file")


def test_a_warning_in_a_process_of_its_own_is_one_line(folder, importable):
    audio.write("stereo.wav", np.stack([audio.read("enroll.wav")[0]] * 2), RATE)
    result = run_process(*extract_words(enroll=("stereo.wav",)))
    assert result.returncode == 0
    assert result.stderr == "tse extract: warning: stereo.wav: 2 channels averaged to one\n"
