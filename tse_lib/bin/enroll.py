"""tse enroll: recordings of one talker to a profile."""

import argparse
from pathlib import Path

import tse_lib
from tse_lib import audio
from tse_lib.bin.device import add_device_options, device_of
from tse_lib.inference.extractor import Extractor
from tse_lib.inference.profile import require_npz


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse enroll",
        description="Save what a model makes of recordings of one talker alone, so that tse extract need not hear them "
        "again. A profile serves one model only. It holds a vector, or of networks that attend to every frame of an "
        "enrolment all of these, and is then several times as large as the recordings.",
        epilog="example: tse enroll alice1.wav alice2.wav --model exp/tse/best.pt -o alice.npz; "
        "tse extract meeting.wav --enroll alice.npz --model exp/tse/best.pt -o alice.wav",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="the talker alone; several help")
    parser.add_argument("--model", required=True, help="best.pt or a packed model folder")
    parser.add_argument("-o", "--out", required=True, help="the profile to write: .npz")
    add_device_options(parser)
    args = parser.parse_args(argv)

    require_npz(args.out)
    extractor = load_extractor(args.model, args)
    waves = read_enrolments(args.files, extractor.sample_rate)
    profile = extractor.enroll(waves, extractor.sample_rate, args.files)
    profile.save(args.out)
    size = Path(args.out).stat().st_size / 2**10
    print(f"{args.out}: {profile.seconds:.1f} s of {len(waves)} recording(s), {size:.0f} KiB, for {args.model} only")


def load_extractor(path: str, args: argparse.Namespace) -> Extractor:
    model = tse_lib.load(path, device_of(args))
    if not isinstance(model, Extractor):
        raise ValueError(f"{path}: a network that separates, and knows no enrolments; use tse separate")
    return model


def read_enrolments(paths: list[str], sample_rate: int) -> list:
    """Each (T_e,) at `sample_rate`; one that is silent is an error that names it."""
    waves = []
    for path in paths:
        wave, rate = audio.read(path)
        audio.refuse_silence(wave, path)
        waves.append(audio.resample(wave, rate, sample_rate))
    return waves
