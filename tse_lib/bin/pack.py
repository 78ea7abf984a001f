"""tse pack: copy a data set's audio into few 16-bit wav files that training reads fast, `data/<set>/packed/`."""

import argparse
from pathlib import Path

from tse_lib.data.pack import check, pack


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="tse pack",
        description=__doc__ + " Training reads them from then on; the tables stay as they are. Run it again when the "
        "tables changed or when it was killed: what is done stays done. For speech and noise: several channels are "
        "averaged to one.",
        epilog="example: tse pack data/train data/noise_train --nj 8",
    )
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="DIR", help="a data set, as data/train")
    add("--nj", type=int, default=2, help="processes; changes nothing but the speed (default: %(default)s)")
    add("--sample_rate", type=int, help="resample to this rate, once instead of at every draw (default: as it is)")
    add("--skip_bad", action="store_true", help="go on without what 16 bits cannot hold, or what cannot be read")
    add("--check", action="store_true", help="compare all that is packed with its checksums, and write nothing")
    args = parser.parse_args(argv)
    if args.sample_rate is not None and args.sample_rate < 1:
        raise ValueError(f"--sample_rate {args.sample_rate}: at least 1 Hz")
    for folder in args.folders:
        if args.check:
            check(folder, args.nj)
        else:
            pack(folder, args.nj, args.sample_rate, args.skip_bad)
