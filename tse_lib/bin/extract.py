"""tse extract: one talker out of a recording."""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np

from tse_lib import audio
from tse_lib.bin.device import add_device_options
from tse_lib.bin.enroll import load_extractor, read_enrolments
from tse_lib.config import Calibration, Inference, build
from tse_lib.files import replace_file, require_writable
from tse_lib.inference.extractor import Extractor
from tse_lib.inference.gate import gate, open_seconds
from tse_lib.inference.profile import Profile, load_profile


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse extract",
        description="Extract the talker of the enrolment(s) from a recording of any length, sample rate and number of "
        "channels. The estimate has the recording's own. --presence and --gate want a model that tse "
        "calibrate was run with.",
        epilog="examples: tse extract meeting.wav --enroll alice1.wav alice2.wav --model exp/tse/best.pt -o alice.wav; "
        "with a profile of tse enroll, how likely she speaks, and silence where she does not: "
        "tse extract meeting.wav --enroll alice.npz --model exp/tse/best.pt -o alice.wav --presence alice.json --gate",
    )
    parser.add_argument("mixture", help="the recording")
    parser.add_argument(
        "--enroll", nargs="+", required=True, metavar="FILE", help="the wanted talker alone, several help; or a profile"
    )
    parser.add_argument(
        "--average",
        choices=("network", "estimates"),
        default="network",
        help="of several enrolments: network hears them in its own way; estimates: extract with each, take the mean "
        "(default: %(default)s)",
    )
    parser.add_argument("--model", required=True, help="best.pt or a packed model folder")
    parser.add_argument("-o", "--out", required=True, help="where to write: .wav (32-bit float) or .flac (24 bit)")
    parser.add_argument("--presence", metavar="JSON", help="write the probability that the talker speaks, every second")
    parser.add_argument("--gate", action="store_true", help="silence where that is below the calibrated threshold")
    parser.add_argument("--chunk_s", type=float, help="seconds processed at once (default: the model's)")
    parser.add_argument("--overlap_count", type=int, help="chunks that cover a sample (default: the model's)")
    parser.add_argument("--batch_size", type=int, help="chunks at once (default: the model's)")
    add_device_options(parser)
    args = parser.parse_args(argv)

    audio.refuse_other_kind(args.out)
    refuse_overwriting(args)
    warnings.simplefilter("always")
    mixture, sample_rate = audio.read(args.mixture, mono=False)
    extractor = load_extractor(args.model, args)
    wants_presence = bool(args.presence or args.gate)
    if wants_presence:
        calibration = calibration_of(extractor, args.model)
    enrolls = read_enrolls(args.enroll, extractor)
    audio.refuse_silence(mixture, args.mixture)
    if sample_rate != extractor.sample_rate:
        print(f"{args.mixture}: {sample_rate} Hz, processed at the model's {extractor.sample_rate} Hz")
    names = ("chunk_s", "overlap_count", "batch_size")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    settings = build(Inference, {**extractor.conf.inference.model_dump(), **given}, "inference")
    for out in filter(None, (args.out, args.presence)):
        require_writable(out)
    own_rate = extractor.sample_rate
    estimate = extractor.extract(mixture, enrolls, sample_rate, own_rate, settings, progress=True, average=args.average)
    if wants_presence:
        probabilities = extractor.presence(mixture, estimate, sample_rate)
        there = open_seconds(probabilities, calibration.threshold)
        print(f"{args.mixture}: the talker is judged present in {there.sum()} of {len(there)} seconds")
    if args.presence:
        write_presence(args.presence, probabilities, calibration)
    if args.gate:
        estimate = gate(estimate, probabilities, calibration.threshold, sample_rate)
    audio.write(args.out, fit_full_scale(estimate, args.out), sample_rate)
    print(f"{args.out}: {mixture.shape[1] / sample_rate:.1f} s, {len(mixture)} channel(s), {sample_rate} Hz")


def read_enrolls(paths: list[str], extractor: Extractor) -> list[np.ndarray | Profile]:
    """Recordings at the model's rate, profiles as they are."""
    enrolls: list[np.ndarray | Profile] = []
    for path in paths:
        if Path(path).suffix == ".npz":
            profile = load_profile(path)
            extractor.refuse_foreign(profile, path)
            enrolls.append(profile)
        else:
            enrolls += read_enrolments([path], extractor.sample_rate)
    return enrolls


def calibration_of(extractor: Extractor, model: str) -> Calibration:
    try:
        return extractor.calibration
    except ValueError as error:
        raise ValueError(f"{model}: {error}") from None


def write_presence(path: str, probabilities: np.ndarray, calibration: Calibration) -> None:
    with replace_file(path) as file:
        values = {"threshold": calibration.threshold, "probability": [round(float(p), 4) for p in probabilities]}
        json.dump(values, file)
        file.write("\n")


def refuse_overwriting(args: argparse.Namespace) -> None:
    outputs = [args.out, *([args.presence] if args.presence else [])]
    for out in outputs:
        if any(Path(out).resolve() == Path(path).resolve() for path in (args.mixture, *args.enroll)):
            raise ValueError(f"{out}: the output would overwrite an input")
    if len({Path(out).resolve() for out in outputs}) < len(outputs):
        raise ValueError(f"{args.out}: given for the audio and for the probabilities")


def fit_full_scale(estimate: np.ndarray, path: str) -> np.ndarray:
    """FLAC cannot hold more than full scale: the level is lowered then, and said so."""
    peak = float(np.abs(estimate).max())
    if Path(path).suffix.lower() != ".flac" or peak <= 1:
        return estimate
    print(f"{path}: lowered by {20 * np.log10(peak):.1f} dB to fit full scale (a .wav keeps the level)")
    return estimate / peak
