"""tse extract: one talker out of a recording."""

import argparse
import warnings
from pathlib import Path

import numpy as np

import tse_lib
from tse_lib import audio
from tse_lib.bin.device import add_device_options, device_of
from tse_lib.config import Inference
from tse_lib.inference.extractor import Extractor


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse extract",
        description="Extract the talker of the enrolment(s) from a recording of any length, sample rate and number of "
        "channels. The estimate has the recording's own.",
        epilog="example: tse extract meeting.wav --enroll alice1.wav alice2.wav --model exp/tse/best.pt -o alice.wav",
    )
    parser.add_argument("mixture", help="the recording")
    parser.add_argument(
        "--enroll", nargs="+", required=True, metavar="WAV", help="the wanted talker alone; several help"
    )
    parser.add_argument("--model", required=True, help="best.pt or a packed model folder")
    parser.add_argument("-o", "--out", required=True, help="where to write: .wav (32-bit float) or .flac (24 bit)")
    parser.add_argument("--chunk_s", type=float, help="seconds processed at once (default: the model's)")
    parser.add_argument("--overlap_count", type=int, help="chunks that cover a sample (default: the model's)")
    parser.add_argument("--batch_size", type=int, help="chunks at once (default: the model's)")
    add_device_options(parser)
    args = parser.parse_args(argv)

    refuse_overwriting(args)
    warnings.simplefilter("always")
    mixture, sample_rate = audio.read(args.mixture, mono=False)
    extractor = tse_lib.load(args.model, device_of(args))
    if not isinstance(extractor, Extractor):
        raise ValueError(f"{args.model}: a network that separates; use tse separate")
    enrolls = []
    for path in args.enroll:
        wave, rate = audio.read(path)
        audio.refuse_silence(wave, path)
        enrolls.append(audio.resample(wave, rate, extractor.sample_rate))
    audio.refuse_silence(mixture, args.mixture)
    if sample_rate != extractor.sample_rate:
        print(f"{args.mixture}: {sample_rate} Hz, processed at the model's {extractor.sample_rate} Hz")
    given = {key: getattr(args, key) for key in ("chunk_s", "overlap_count", "batch_size")}
    settings = Inference(
        **{**extractor.conf.inference.model_dump(), **{k: v for k, v in given.items() if v is not None}}
    )
    estimate = extractor.extract(mixture, enrolls, sample_rate, extractor.sample_rate, settings, progress=True)
    audio.write(args.out, fit_full_scale(estimate, args.out), sample_rate)
    print(f"{args.out}: {mixture.shape[1] / sample_rate:.1f} s, {len(mixture)} channel(s), {sample_rate} Hz")


def refuse_overwriting(args: argparse.Namespace) -> None:
    for path in (args.mixture, *args.enroll):
        if Path(args.out).resolve() == Path(path).resolve():
            raise ValueError(f"{args.out}: the output would overwrite an input")


def fit_full_scale(estimate: np.ndarray, path: str) -> np.ndarray:
    """FLAC cannot hold more than full scale: the level is lowered then, and said so."""
    peak = float(np.abs(estimate).max())
    if Path(path).suffix.lower() != ".flac" or peak <= 1:
        return estimate
    print(f"{path}: lowered by {20 * np.log10(peak):.1f} dB to fit full scale (a .wav keeps the level)")
    return estimate / peak
