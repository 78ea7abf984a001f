"""tse separate: recordings of any length into their sources."""

import argparse
import tempfile
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

import tse_lib
from tse_lib import audio
from tse_lib.allocator import keep_freed_memory
from tse_lib.bin.device import add_device_options, device_of
from tse_lib.config import Inference, build
from tse_lib.export.network import export_network
from tse_lib.hub import import_checkpoint
from tse_lib.inference.chunked import with_progress
from tse_lib.inference.extractor import Extractor
from tse_lib.inference.loading import assemble
from tse_lib.inference.network import BACKENDS, FILES, PRECISIONS, exported, refuse_backend
from tse_lib.inference.profile import fingerprint
from tse_lib.inference.separator import Separator

REST = -1  # the place of what no written source has
SUBTYPES = {"wav": "FLOAT", "flac": "PCM_24"}
QUALITIES: dict[str, dict[str, float]] = {  # how chunks overlap
    "best": {"overlap_count": 8, "crossfade": 0},
    "balanced": {"overlap_count": 2, "crossfade": 0},
    "fast": {"overlap_count": 1, "crossfade": 0.125},
}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse separate",
        description="Separate recordings of any length, sample rate and number of channels into "
        "OUT/<name>_<source>.wav. Sources have the recording's length, rate, channels and tags. Long recordings go "
        "through memory in chunks.",
        epilog="example: tse separate meeting.wav --model exp/sep/best.pt -o talkers",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="recordings: wav, flac, ogg and what soundfile reads")
    parser.add_argument("--model", required=True, help="best.pt or a packed model folder; with --config, a checkpoint "
                        "of another project")  # fmt: skip
    parser.add_argument("--config", help="that project's own configuration, as the YAML beside an MDX23C checkpoint")
    parser.add_argument("-o", "--out", required=True, help="folder for the sources; files of these names are replaced")
    parser.add_argument("--stems", nargs="+", metavar="SOURCE", help="only these, by name or number (default: all)")
    parser.add_argument("--rest", action="store_true", help="also write <name>_rest: the recording less the "
                        "sources that are written, so that all files together are the recording again")  # fmt: skip
    parser.add_argument("--format", choices=tuple(SUBTYPES), default="wav", help="(default: %(default)s)")
    parser.add_argument(
        "--subtype", choices=("FLOAT", "PCM_24", "PCM_16"), help="(default: FLOAT of wav, PCM_24 of flac)"
    )
    parser.add_argument(
        "--level",
        choices=("mixture", "model"),
        help="mixture: scale sources so that their sum fits the recording; model: as they come (default: the model's)",
    )
    parser.add_argument(
        "--sum_to_mixture", action="store_true", default=None, help="what the sources' sum lacks of the recording goes "
        "to them, in each bin by their power: for recordings that hold nothing else (default: the model's)",
    )  # fmt: skip
    parser.add_argument("--chunk_s", type=float, help="seconds processed at once (default: the model's)")
    parser.add_argument(
        "--quality",
        choices=tuple(QUALITIES),
        help="how often each sample of a long file is computed, which is what it costs: best 8 times, balanced 2, fast "
        "1.14, in chunks that only fade into each other (default: the model's overlap_count)",
    )
    parser.add_argument("--overlap_count", type=int, help="chunks that cover a sample, whatever --quality says")
    parser.add_argument(
        "--crossfade", type=float, help="with overlap_count 1: share of a chunk over which it fades into the next one"
    )
    parser.add_argument(
        "--batch_size", type=int, help="chunks at once, fewer if memory is short (default: the model's)"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS, "int8"),
        default="auto",
        help="of the network between its transforms, where it has such a part; bfloat16 on processors and GPUs that "
        "have it, float16 on GPUs, int8 of exported networks with a --backend (default: %(default)s, float32)",
    )
    parser.add_argument(
        "--backend",
        choices=("torch", *BACKENDS),
        default="torch",
        help="what computes that network on a processor; what `tse export --onnx` wrote is used, or made for the time "
        "being (default: %(default)s)",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile, on GPUs: minutes at the start")
    add_device_options(parser)
    args = parser.parse_args(argv)
    keep_freed_memory()

    twice = [name for name, count in Counter(Path(path).stem for path in args.files).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]}: several inputs of this name would be written to the same files of {args.out}")
    facts = {path: audio.info(path) for path in args.files}  # all of them, before the first one takes its hours
    separator = load(args.model, args.config, device_of(args))
    if not isinstance(separator, Separator):
        raise ValueError(f"{args.model}: a network that extracts; use tse extract")
    speed_up(separator, args)
    wanted = pick(separator.source_names, args.stems)
    if args.rest:
        if "rest" in wanted.values():
            raise ValueError("--rest: the model has a source of that name")
        wanted[REST] = "rest"
    for path in args.files:
        refuse_overwriting(outputs_of(path, args, wanted), args.files)
    settings = settings_of(args, separator.conf.inference)
    subtype = args.subtype or SUBTYPES[args.format]
    for path, fitting in fit_all(separator, facts, settings).items():
        separate_file(separator, path, outputs_of(path, args, wanted), subtype, fitting)


def fit_all(separator: Separator, facts: dict[str, audio.Info], settings: Inference) -> dict[str, Inference]:
    """The settings for each file, by what fits into memory; ValueError that names the first one that cannot be done."""
    of_kinds: dict[tuple[int, float], Inference] = {}
    fitted = {}
    for path, (rate, num_samples, num_channels) in facts.items():
        kind = num_channels, min(num_samples / rate, settings.chunk_s)
        if kind not in of_kinds:
            try:
                of_kinds[kind], told = separator.fit_memory(settings, num_channels, num_samples / rate)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            print(f"memory: {told}")
        fitted[path] = of_kinds[kind]
    return fitted


def load(model: str, config: str | None, device: torch.device) -> Extractor | Separator:
    """A model of ours, or one of another project, read as strictly as `tse convert` reads it."""
    if config is None:
        return tse_lib.load(model, device)
    found = import_checkpoint(model, config=config)
    print(f"{model}: {found.told}")
    return assemble(found.weights, found.conf, model, device)


def speed_up(separator: Separator, args: argparse.Namespace) -> None:
    """--precision, --backend and --compile."""
    precision = "float32" if args.precision == "auto" else args.precision
    if args.backend == "torch":
        if precision == "int8":
            raise ValueError(f"--precision int8: of exported networks; --backend {' or '.join(BACKENDS)}")
        separator.convert(precision)
        if args.compile:
            separator.compile()
        return
    if args.compile:
        raise ValueError(f"--compile is torch's; --backend {args.backend} compiles by itself")
    refuse_backend(args.backend, precision, separator.device)  # before anything is exported for it
    folder = Path(args.model)
    found = exported(folder, precision, fingerprint(separator.model, separator.conf)) if folder.is_dir() else None
    if found:
        separator.run_exported(found, args.backend, precision)
        return
    if precision == "int8":
        raise ValueError(f"--precision int8: {folder} has no {FILES['int8']}; tse export --onnx --int8 makes a folder")
    with tempfile.TemporaryDirectory() as temporary:
        path, report = export_network(separator, Path(temporary))
        print(f"network: exported for this time, {report['null_db']} dB from torch; tse export --onnx keeps it")
        separator.run_exported(path, args.backend, precision)


def settings_of(args: argparse.Namespace, own: Inference) -> Inference:
    """The model's own settings with what was asked for in their place."""
    values = {**own.model_dump(), **QUALITIES.get(args.quality, {})}
    if args.overlap_count is not None or args.crossfade is not None:
        values |= {"overlap_count": 1, "crossfade": 0}  # each stands for itself
    names = ("chunk_s", "overlap_count", "crossfade", "batch_size", "level", "sum_to_mixture")
    values |= {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return build(Inference, values, "inference")


def pick(names: tuple[str, ...], stems: list[str] | None) -> dict[int, str]:
    """The wanted sources: place in the model's output -> name."""
    if not stems:
        return dict(enumerate(names))
    places = {str(number + 1): number for number in range(len(names))} | {name: n for n, name in enumerate(names)}
    unknown = [stem for stem in stems if stem not in places]
    if unknown:
        raise ValueError(f"--stems {unknown[0]}: the model has {', '.join(names)}")
    return {place: names[place] for place in sorted({places[stem] for stem in stems})}


def outputs_of(path: str, args: argparse.Namespace, wanted: dict[int, str]) -> dict[int, Path]:
    return {place: Path(args.out) / f"{Path(path).stem}_{name}.{args.format}" for place, name in wanted.items()}


def refuse_overwriting(outputs: dict[int, Path], inputs: list[str]) -> None:
    for out in outputs.values():
        if any(out.resolve() == Path(path).resolve() for path in inputs):
            raise ValueError(f"{out}: the output would overwrite an input")


def separate_file(separator: Separator, path: str, outputs: dict[int, Path], subtype: str, settings: Inference) -> None:
    """Read, separate and write a file block by block; an output appears when it is whole."""
    rate, num_samples, num_channels = audio.info(path)
    seconds, metadata = num_samples / rate, audio.tags(path)
    recording: deque[np.ndarray] = deque()  # what was read and not yet written, where the rest is wanted

    def read() -> Iterator[np.ndarray]:
        for block in audio.read_blocks(path):
            if REST in outputs:
                recording.append(block)
            yield block

    blocks = separator.separate_blocks(read(), rate, settings)
    if seconds > settings.chunk_s:
        blocks = with_progress(blocks, Path(path).name, seconds, rate)
    with ExitStack() as stack:
        writers = {
            place: stack.enter_context(audio.write_blocks(out, rate, num_channels, subtype, num_samples, metadata))
            for place, out in outputs.items()
        }
        written = [place for place in outputs if place != REST]
        for block in blocks:
            for place in written:
                writers[place].write(block[place])
            if REST in outputs:
                writers[REST].write(take(recording, block.shape[-1]) - block[written].sum(0))
    for writer in writers.values():
        if writer.num_clipped:
            print(
                f"{writer.path}: {writer.num_clipped} samples above full scale were clipped (peak {writer.peak:.2f}); "
                "--format wav --subtype FLOAT keeps them"
            )
    print(f"{path}: {seconds:.1f} s, {num_channels} channel(s), {rate} Hz -> {', '.join(map(str, outputs.values()))}")


def take(blocks: deque[np.ndarray], size: int) -> np.ndarray:
    """The first `size` samples (C, size) of blocks, which are removed from them."""
    parts = []
    while size:
        block = blocks.popleft()
        parts.append(block[:, :size])
        if block.shape[1] > size:
            blocks.appendleft(block[:, size:])
        size -= parts[-1].shape[1]
    return np.concatenate(parts, 1)
