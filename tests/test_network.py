"""The network between the transforms: in other precisions, exported, quantised, by other backends, on a GPU."""

import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

import tse_lib
from tests.test_separator import conf_of as conf_of_tasnet
from tests.test_tfc_tdf import SMALL
from tests.tiny import voice
from tse_lib import audio, checkpoint
from tse_lib.bin import separate
from tse_lib.bin.main import main
from tse_lib.config import Deployed, build
from tse_lib.export.network import null_db
from tse_lib.inference import chunked, network
from tse_lib.inference.memory import peak_bytes
from tse_lib.inference.separator import Separator
from tse_lib.losses.sdr import neg_snr
from tse_lib.models import build_model

RATE = 8000
BACKENDS = list(network.BACKENDS)


def conf():
    inference = {"chunk_s": 0.2, "overlap_count": 2, "stitch": False, "level": "model"}
    values = {"sample_rate": RATE, "model": {"name": "tfc_tdf", "params": SMALL}, "inference": inference}
    return build(Deployed, values, "test")


@pytest.fixture(scope="module")
def weights():
    """Of a network that has learnt to tell three tones apart: random weights amplify what is rounded."""
    torch.manual_seed(0)
    model = build_model("tfc_tdf", SMALL, RATE, task=None)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    seconds, values = torch.arange(1200) / RATE, []
    for _ in range(60):
        hertz = torch.tensor([200.0, 900.0, 2500.0]) * (0.9 + 0.2 * torch.rand(4, 1, 3))
        loudness = 0.05 + 0.1 * torch.rand(4, 3, 2, 1)
        stems = loudness * torch.sin(2 * torch.pi * hertz.mT[..., None] * seconds + 6 * torch.rand(4, 3, 1, 1))
        loss = neg_snr(model(stems.sum(1)), stems).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < min(-5, values[0] - 5)
    return model.state_dict()


@pytest.fixture
def separator(weights):
    model = build_model("tfc_tdf", SMALL, RATE, task=None)
    model.load_state_dict(weights)
    return Separator(model, conf())


@pytest.fixture(scope="module")
def checkpoint_of_it(tmp_path_factory, weights):
    path = tmp_path_factory.mktemp("checkpoint") / "best.pt"
    checkpoint.save(path, {"modules": {"model": weights}, "step": 1, "config": conf().model_dump()})
    return path


@pytest.fixture(scope="module")
def packed(tmp_path_factory, checkpoint_of_it):
    """A packed model with both exported networks; read only."""
    folder = tmp_path_factory.mktemp("packed") / "model"
    song = folder.parent / "song.wav"
    audio.write(song, mixture(24000), RATE)
    words = ["--model", checkpoint_of_it, "--out", folder, "--onnx", "--int8", "--calibrate", song]
    assert main(["export", *map(str, words)]) == 0
    return folder


def mixture(size=9000):
    return np.stack([voice("a-0", size), voice("b-0", size)])


def db(estimate, reference):
    assert estimate.shape == reference.shape and np.isfinite(estimate).all()
    return null_db([(reference, estimate)])


# ---------------------------------------------------------------------------------------- precision


def test_only_the_network_is_converted(separator, checkpoint_of_it, monkeypatch):
    monkeypatch.setattr(network, "has_bfloat16", lambda device: True)
    exact = separator.separate(mixture(), RATE)
    coarse = tse_lib.load(checkpoint_of_it, precision="bfloat16")
    assert {parameter.dtype for parameter in coarse.model.network.parameters()} == {torch.bfloat16}
    assert coarse.model.window.dtype == torch.float32
    assert 20 < db(coarse.separate(mixture(), RATE), exact) < 60


@pytest.mark.parametrize(
    ("precision", "told"),
    [
        ("float16", "processors are far slower in it"),
        ("bfloat16", "cpu has no arithmetic for it"),
        ("int8", "int8 is for exported networks"),
        ("float8", "one of float32, bfloat16, float16"),
    ],
)
def test_precisions_that_cost_time_or_are_none(separator, precision, told, monkeypatch):
    monkeypatch.setattr(network, "has_bfloat16", lambda device: False)
    with pytest.raises(ValueError, match=told):
        separator.convert(precision)


def test_networks_without_such_a_part(monkeypatch, checkpoint_path):
    monkeypatch.setattr(network, "has_bfloat16", lambda device: True)
    other = conf_of_tasnet()
    tasnet = Separator(build_model("conv_tasnet", other.model.params, RATE, "separate"), other)
    tasnet.convert("float32")
    with pytest.raises(ValueError, match="ConvTasNet has no network between transforms"):
        tasnet.convert("bfloat16")
    with pytest.raises(ValueError, match="a network that extracts; it runs in float32"):
        tse_lib.load(checkpoint_path, precision="bfloat16")


def test_compiling_is_for_gpus(separator):
    with pytest.raises(ValueError, match="--compile: it is for GPUs"):
        separator.compile()


# ---------------------------------------------------------------------------------------- what must not matter


@pytest.mark.parametrize("overlap", [{"overlap_count": 4}, {"overlap_count": 1, "crossfade": 0.125}])
def test_batches_and_threads_do_not_matter(separator, overlap):
    settings = conf().inference.model_copy(update=overlap)
    expected = separator.separate(mixture(), RATE, settings)
    for batch_size in (2, 3, 100):
        batched = separator.separate(mixture(), RATE, settings.model_copy(update={"batch_size": batch_size}))
        assert db(batched, expected) > 100
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert db(separator.separate(mixture(), RATE, settings), expected) > 100
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------- exported networks


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 9000), (1, 700), (2, 1), (2, 1600), (2, 1601)])
def test_backends_give_what_torch_gives(separator, packed, backend, shape):
    pytest.importorskip(backend)
    wave = np.ascontiguousarray(mixture(shape[1])[: shape[0]])
    settings = conf().inference.model_copy(update={"batch_size": 3})  # the last batch is smaller
    expected = separator.separate(wave, RATE)
    separator.run_exported(packed / "network.onnx", backend)
    assert db(separator.separate(wave, RATE, settings), expected) > 70
    assert db(separator.separate(wave, RATE), separator.separate(wave, RATE, settings)) > 100


@pytest.mark.parametrize("backend", BACKENDS)
def test_int8_is_near(separator, packed, backend):
    """The network is tiny; in its bands of noise int8 leaves 20 dB and more."""
    pytest.importorskip(backend)
    expected = separator.separate(mixture(), RATE)
    separator.run_exported(packed / "network.int8.onnx", backend, "int8")
    assert 15 < db(separator.separate(mixture(), RATE), expected) < 60
    assert os.path.getsize(packed / "network.int8.onnx") != os.path.getsize(packed / "network.onnx")


def test_what_hears_the_spectrum_itself_stays_in_float32(packed):
    graph = pytest.importorskip("onnx").load(packed / "network.int8.onnx").graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    in_float32 = [
        node.name for node in graph.node if node.op_type == "Conv" and makers.get(node.input[1]) != "DequantizeLinear"
    ]
    normalised = [name for name in in_float32 if "tfc" in name]
    last = conf().model.params["num_scales"] - 1
    assert normalised == ["/encoders.0.0/tfc1/conv/Conv", f"/decoders.{last}.0/tfc1/conv/Conv"]


def test_the_report_tells_of_what_and_how_near(packed):
    for name, least_db in (("network.onnx", 70), ("network.int8.onnx", 10)):
        about = yaml.safe_load((packed / f"{name}.yaml").read_text())
        assert set(about) == {"sha256", "model", "report"} and about["report"]["null_db"] > least_db
        assert about["report"]["torch_cpu_s"] > 0 and about["report"]["onnxruntime_cpu_s"] > 0


def test_exported_networks_of_other_weights_and_damaged_ones(packed, tmp_path):
    own = yaml.safe_load((packed / "network.onnx.yaml").read_text())["model"]
    assert network.exported(packed, "float32", own) == packed / "network.onnx"
    assert network.exported(packed, "bfloat16", own) == packed / "network.onnx"
    assert network.exported(packed, "int8", own) == packed / "network.int8.onnx"
    assert network.exported(tmp_path, "float32", own) is None
    with pytest.raises(FileNotFoundError, match="network.int8.onnx: not there; tse export --onnx --int8 --calibrate"):
        network.exported(tmp_path, "int8", own)
    with pytest.raises(ValueError, match="exported from other weights"):
        network.exported(packed, "float32", "0" * 64)
    shutil.copytree(packed, tmp_path / "model")
    os.truncate(tmp_path / "model/network.onnx", 1000)
    with pytest.raises(ValueError, match="network.onnx: cut short or damaged; tse export --onnx writes it again"):
        network.exported(tmp_path / "model", "float32", own)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_that_is_not_installed(separator, packed, backend, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, backend, None)
    with pytest.raises(ModuleNotFoundError, match=f"--backend {backend}: .*; pip install {backend}"):
        separator.run_exported(packed / "network.onnx", backend)


def test_onnxruntime_has_no_bfloat16(separator, packed, monkeypatch):
    monkeypatch.setattr(network, "has_bfloat16", lambda device: True)
    with pytest.raises(ValueError, match="float32 or int8 on a processor; openvino can in bfloat16"):
        separator.run_exported(packed / "network.onnx", "onnxruntime", "bfloat16")


def test_openvino_in_bfloat16(separator, packed, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr(network, "has_bfloat16", lambda device: True)
    expected = separator.separate(mixture(), RATE)
    separator.run_exported(packed / "network.onnx", "openvino", "bfloat16")
    assert db(separator.separate(mixture(), RATE), expected) > 20  # where processors have none it stays float32


# ---------------------------------------------------------------------------------------- commands


@pytest.fixture
def tse(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    audio.write("mix.wav", mixture(), RATE)

    def run(*words, out="out"):
        code = main(["separate", "mix.wav", *map(str, words), "-o", out, "--device", "cpu"])
        return code, *capsys.readouterr()

    return run


def written(folder):
    return np.stack([audio.read(f"{folder}/mix_{name}.wav", mono=False)[0] for name in "123"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_separate_with_a_backend(tse, packed, checkpoint_of_it, backend):
    """A packed model brings its exported network; of a checkpoint one is made for the time being."""
    pytest.importorskip(backend)
    assert tse("--model", checkpoint_of_it)[0] == 0
    code, out, _ = tse("--model", packed, "--backend", backend, out="packed")
    assert code == 0 and "exported for this time" not in out
    code, out, _ = tse("--model", checkpoint_of_it, "--backend", backend, out="made")
    assert code == 0 and "network: exported for this time" in out and "dB from torch" in out
    for folder in ("packed", "made"):
        assert db(written(folder), written("out")) > 70
    code, _, _ = tse("--model", packed, "--backend", backend, "--precision", "int8", out="int8")
    assert code == 0 and 15 < db(written("int8"), written("out")) < 60


@pytest.mark.parametrize("words", [[], ["--backend", "onnxruntime"], ["--quality", "fast"]])
def test_the_order_of_files_does_not_matter(tse, packed, words):
    for number, size in enumerate((24000, 700, 9001)):
        audio.write(f"{number}.wav", mixture(size), RATE)
    assert tse("0.wav", "1.wav", "2.wav", "--model", packed, *words)[0] == 0
    assert tse("2.wav", "0.wav", "1.wav", "--model", packed, "--batch_size", 3, *words, out="other")[0] == 0
    for name in sorted(os.listdir("out")):
        one, other = (audio.read(f"{folder}/{name}", mono=False)[0] for folder in ("out", "other"))
        assert db(other, one) > 100


def test_a_file_with_too_many_channels_is_told_before_the_first_one_is_done(tse, packed):
    audio.write("three.wav", mixture()[[0, 0, 0]], RATE)
    result = tse("three.wav", "--model", packed)
    assert result[0] == 4 and "three.wav: 3 channels; this network takes 2, or one" in result[2]
    assert not os.path.exists("out")


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        (["--precision", "int8"], "--precision int8: of exported networks; --backend onnxruntime or openvino", 4),
        (["--precision", "float16"], "--precision float16: processors are far slower", 4),
        (["--compile"], "--compile: it is for GPUs", 4),
        (["--compile", "--backend", "onnxruntime"], "--compile is torch's", 4),
        (["--backend", "onnxruntime", "--precision", "int8"], "has no network.int8.onnx", 4),
    ],
)
def test_switches_that_do_not_go_together(tse, checkpoint_of_it, words, told, code):
    result = tse("--model", checkpoint_of_it, *words)
    assert result[0] == code and told in result[2] and not os.path.exists("out")


@pytest.mark.parametrize(
    ("device", "precision", "told"),
    [
        ("meta", "auto", "--backend onnxruntime: it is for processors; --device cpu, or torch on meta"),
        ("cpu", "bfloat16", "--backend onnxruntime computes in float32 or int8"),
    ],
)
def test_nothing_is_exported_for_a_backend_that_cannot_run_it(
    tse, checkpoint_of_it, monkeypatch, device, precision, told
):
    """On a machine with a GPU, which is what --device auto takes; here a device without numbers stands for it."""
    monkeypatch.setattr(separate, "device_of", lambda args: torch.device(device))
    monkeypatch.setattr(separate, "export_network", None)
    result = tse("--model", checkpoint_of_it, "--backend", "onnxruntime", "--precision", precision)
    assert result[0] == 4 and told in result[2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--int8"], "--int8 needs --onnx and --calibrate"),
        (["--onnx", "--int8"], "--int8 needs --onnx and --calibrate"),
        (["--onnx", "--calibrate", "mix.wav"], "--calibrate: goes with --onnx --int8"),
        (["--onnx", "--int8", "--calibrate", "nowhere.wav"], "nowhere.wav: no such audio file"),
    ],
)
def test_int8_needs_audio(checkpoint_of_it, tmp_path, capsys, words, told):
    assert main(["export", "--model", str(checkpoint_of_it), "--out", str(tmp_path / "model"), *words]) in (3, 4)
    assert told in capsys.readouterr().err and not (tmp_path / "model").exists()


def test_extractors_are_not_exported(checkpoint_path, tmp_path, capsys):
    assert main(["export", "--model", str(checkpoint_path), "--out", str(tmp_path / "model"), "--onnx"]) == 4
    assert "--onnx is for separators, this network extracts" in capsys.readouterr().err


def test_too_little_audio_to_calibrate(checkpoint_of_it, tmp_path, capsys):
    audio.write(tmp_path / "short.wav", mixture(9000), RATE)
    words = ["--out", str(tmp_path / "model"), "--onnx", "--int8", "--calibrate", str(tmp_path / "short.wav")]
    assert main(["export", "--model", str(checkpoint_of_it), *words]) == 4
    assert "short.wav: too short" in capsys.readouterr().err
    assert not (tmp_path / "model/network.int8.onnx").exists()


# ---------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("channels", [1, 2])
def test_memory_is_told_without_running(separator, channels):
    """What is counted of shapes alone is what is counted of a run, up to what transforms do inside."""
    settings = conf().inference
    wave = torch.zeros(1, channels, round(settings.chunk_s * RATE))
    there = [*separator.model.parameters(), *separator.model.buffers()]
    with torch.no_grad():
        counted = peak_bytes(separator.model, wave, there)
    assert separator._bytes_without_running(wave.shape[-1], channels, settings) == pytest.approx(counted, rel=0.1)
    separator.model.network.to(torch.bfloat16)
    assert separator._bytes_without_running(wave.shape[-1], channels, settings) < 0.95 * counted


def test_what_makes_the_sources_sum_to_the_mixture_counts(separator):
    settings = conf().inference.model_copy(update={"sum_to_mixture": True})
    wave = torch.rand(1, 2, round(settings.chunk_s * RATE))
    there = [*separator.model.parameters(), *separator.model.buffers()]
    counted = peak_bytes(chunked.processor(separator.model, None, settings), wave, there)
    assert counted > 1.2 * separator._bytes_without_running(wave.shape[-1], 2, conf().inference)
    assert separator._bytes_without_running(wave.shape[-1], 2, settings) == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exported_network_takes_more_than_torchs(separator, packed, backend):
    pytest.importorskip(backend)
    settings = conf().inference
    before = separator._bytes_without_running(1600, 2, settings)
    separator.run_exported(packed / "network.onnx", backend)
    assert separator._bytes_without_running(1600, 2, settings) == pytest.approx(before * network.MEMORY[backend], abs=1)
    assert "not enough" not in separator.fit_memory(settings, 2, 1.0)[1]


# ---------------------------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("precision", "compiled", "least_db"),
    [("float32", False, 80), ("float32", True, 80), ("bfloat16", False, 20), ("float16", False, 35)],
)
def test_a_gpu_gives_what_a_processor_gives(separator, weights, precision, compiled, least_db):
    """Through pinned memory and a stream that copies beside the one that computes, several batches long."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    expected = separator.separate(mixture(40000), RATE)
    model = build_model("tfc_tdf", SMALL, RATE, task=None)
    model.load_state_dict(weights)
    there = Separator(model, conf(), "cuda")
    there.convert(precision)
    if compiled:
        there.compile()
    for batch_size in (1, 4):
        settings = conf().inference.model_copy(update={"batch_size": batch_size})
        assert db(there.separate(mixture(40000), RATE, settings), expected) > least_db


@pytest.mark.parametrize("is_cuda", [True, False])
def test_a_gpus_output_is_looked_at_when_the_next_batch_was_started(is_cuda):
    """So that it computes while the host adds, resamples and writes; a processor has nothing to gain by that."""
    started = []

    def batches():
        for number in range(3):
            started.append(number)
            yield [number], SimpleNamespace(is_cuda=is_cuda)

    seen = [(batch[0], len(started)) for batch, _ in chunked.one_behind(batches())]
    assert seen == ([(0, 2), (1, 3), (2, 3)] if is_cuda else [(0, 1), (1, 2), (2, 3)])
