"""Export a separator's network, between its transforms, to ONNX; quantise it to int8; prove both against torch."""

import resource
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from tse_lib import audio
from tse_lib.files import replace_file, temporary_for
from tse_lib.inference.network import FILES, Exported, imported, network_of, with_onnxruntime, yaml_of
from tse_lib.inference.profile import fingerprint
from tse_lib.inference.separator import Separator
from tse_lib.store import sha256_of

OPSET = 20  # the first with GELU as one operator
LEAST_DB = (
    50.0  # of float32 against torch: rounding alone gives 69 to 80 dB with random weights, more with trained ones
)
ROUNDS = 3


def export_network(separator: Separator, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Write `network.onnx`, for any batch and number of frames that the scales divide, and compare it with torch.

    Returns:
        The file and the report that its yaml has: `null_db` is that of its output to the difference from torch's, over
        noise of two lengths and batches; seconds are of this process's CPU time, for one chunk of `frames`.

    Raises:
        ValueError: the model cannot be exported, or what was exported differs.
    """
    model, path = separator.model, folder / FILES["float32"]
    network = network_of(model).cpu().float()
    imported("onnx")
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_for(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's age, and that instance norms do as they are told
        with torch.enable_grad():  # without gradients the network works in place, which cannot be exported
            torch.onnx.export(
                network,
                (noise_spectra(model, 1, 1),),
                temporary,
                dynamo=False,
                opset_version=OPSET,
                input_names=["spectra"],
                output_names=["separated"],
                dynamic_axes={name: {0: "batch", 3: "frames"} for name in ("spectra", "separated")},
            )
        run = with_onnxruntime(Path(temporary), "float32")
        checks = [noise_spectra(model, 2, 1), noise_spectra(model, 1, 2)]
        with torch.no_grad():
            db = null_db([(network(spectra).numpy(), run(spectra.numpy())) for spectra in checks])
        if not db >= LEAST_DB:
            raise ValueError(f"{path}: what was exported is only {db:.1f} dB from torch's output")
        report = {"null_db": round(db, 1), **speed(network, run, checks[1])}
        digest = sha256_of(Path(temporary))
    write_yaml(path, digest, separator, report)
    return path, report


def noise_spectra(model: Any, batch: int, periods: int) -> Tensor:
    """Spectra (B, 2*C, F, L) of noise, L so many times the frames that the network's scales divide."""
    size = model.hop_length * (periods * max(model.frame_multiple, 8) - 1)
    noise = torch.randn(batch, model.audio_channels, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.spectra(0.1 * noise)


def null_db(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """10 log10 of the power of the first ones to that of the differences."""
    power = sum(float(np.square(expected, dtype=np.float64).sum()) for expected, _ in pairs)
    error = sum(float(np.square(expected - other, dtype=np.float64).sum()) for expected, other in pairs)
    return float(10 * np.log10(power / max(error, 1e-30 * power)))


def speed(
    network: Callable[[Tensor], Tensor], run: Callable[[np.ndarray], np.ndarray], spectra: Tensor
) -> dict[str, Any]:
    """CPU seconds of both for the same spectra, the least of a few turns; the first of each does not count."""
    with torch.no_grad():
        turns = [(cpu_s(lambda: network(spectra)), cpu_s(lambda: run(spectra.numpy()))) for _ in range(1 + ROUNDS)][1:]
    torch_s, ours_s = (round(min(seconds), 4) for seconds in zip(*turns, strict=True))
    return {"frames": spectra.shape[-1], "torch_cpu_s": torch_s, "onnxruntime_cpu_s": ours_s}


def cpu_s(function: Callable[[], Any]) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    function()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_yaml(path: Path, digest: str, separator: Separator, report: dict[str, Any]) -> None:
    about = Exported(sha256=digest, model=fingerprint(separator.model, separator.conf), report=report)
    with replace_file(yaml_of(path)) as file:
        yaml.safe_dump(about.model_dump(mode="json"), file, sort_keys=False)


# ---------------------------------------------------------------------------------------------------- int8


CHUNKS = 16  # of the audio that activations' ranges are taken from


def quantise(separator: Separator, path: Path, files: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """Write `network.int8.onnx`: convolutions in int8, static, with ranges from chunks of the given audio.

    Weights are scaled channel by channel, activations tensor by tensor between their extremes, which are means over the
    chunks (QDQ format). Where a few loud places would leave no steps for the rest, all stays in float32: norms,
    activation functions, linear maps, 1x1 convolutions, whose inputs were not normalised (spectra and sums of blocks),
    and the first convolutions of the outermost blocks, which see most of the spectrum itself.

    Args:
        path: `network.onnx` of the same separator.
        files: audio like that which will be separated.

    Returns:
        As `export_network`; `null_db` is of the network's output over other chunks of the same files.

    Raises:
        ValueError: the files have less than two chunks.
    """
    model, out = separator.model, path.with_name(FILES["int8"])
    network: Any = network_of(model)
    chunks = list(islice(audio_spectra(separator, files), 2 * CHUNKS))
    if len(chunks) < 2:
        raise ValueError(f"--calibrate {files[0]}: too short; a few pieces of what will be separated are wanted")
    used, held_out = chunks[0::2], chunks[1::2]
    quantization = imported("onnxruntime.quantization")
    preprocess = imported("onnxruntime.quantization.shape_inference").quant_pre_process

    with temporary_for(out) as temporary, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        preprocess(str(path), prepared, skip_symbolic_shape=True)
        graph = imported("onnx").load(prepared).graph
        outermost = "/encoders.0.0/tfc1/", f"/decoders.{len(network.decoders) - 1}.0/tfc1/"
        quantization.quantize_static(
            prepared, temporary, Pieces(used), quant_format=quantization.QuantFormat.QDQ, op_types_to_quantize=["Conv"],
            nodes_to_exclude=[
                node.name for node in graph.node if kernel_of(node) == [1, 1] or node.name.startswith(outermost)
            ],
            per_channel=True, activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            extra_options={"CalibMovingAverage": True},
        )  # fmt: skip
        run = with_onnxruntime(Path(temporary), "int8")
        with torch.no_grad():
            db = null_db([(network(spectra).numpy(), run(spectra.numpy())) for spectra in held_out])
        report = {"null_db": round(db, 1), **speed(network, run, held_out[0]), "calibrated_on": len(used)}
        digest = sha256_of(Path(temporary))
    write_yaml(out, digest, separator, report)
    return out, report


def kernel_of(node: Any) -> list[int]:
    """The size of a convolution's kernel; empty of other nodes."""
    found = [list(attribute.ints) for attribute in node.attribute if attribute.name == "kernel_shape"]
    return found[0] if node.op_type == "Conv" else []


class Pieces:
    """What ONNX Runtime calls a data reader."""

    def __init__(self, pieces: Sequence[Tensor]):
        self.pieces = iter(pieces)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(({"spectra": spectra.numpy()} for spectra in self.pieces), None)


def audio_spectra(separator: Separator, files: Sequence[str]) -> Iterator[Tensor]:
    """Spectra (1, 2*C, F, L) of pieces of audio, in turn of each file, of about a second."""
    model: Any = separator.model
    size = model.padded_size(separator.sample_rate)
    streams = [pieces(path, separator.sample_rate, size, model.audio_channels) for path in files]
    while streams:
        for stream in list(streams):
            piece = next(stream, None)
            if piece is None:
                streams.remove(stream)
            else:
                with torch.no_grad():
                    yield model.spectra(torch.from_numpy(piece)[None])


def pieces(path: str, sample_rate: int, size: int, channels: int) -> Iterator[np.ndarray]:
    """(C, size) after one another; mono is heard twice, silent pieces are left out."""
    wave, rate = audio.read(path, mono=False)
    wave = audio.resample(np.atleast_2d(wave), rate, sample_rate)
    wave = np.broadcast_to(wave[:channels] if len(wave) >= channels else wave[:1], (channels, wave.shape[1]))
    for begin in range(0, wave.shape[1] - size + 1, size):
        piece = np.ascontiguousarray(wave[:, begin : begin + size])
        if piece.any():
            yield piece
