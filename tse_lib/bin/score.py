"""tse score: score estimates against their references, one share of a set at a time."""

# The metrics are many small solves: one BLAS thread a process is fastest, and more processes do the rest. These are
# read when numpy loads, so they stand above the imports.
import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import argparse  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402

from tqdm import tqdm  # noqa: E402

from tse_lib.config import Calibration, build, read_yaml  # noqa: E402
from tse_lib.evaluation.score import require_estimates, score_mixture  # noqa: E402
from tse_lib.files import replace_file  # noqa: E402
from tse_lib.manifest import job_share, read_genders, read_mixtures  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="tse score",
        description="Score <est>/<mix_id>.flac (or .wav), of a separation <est>/source1/<mix_id>.flac and so on, "
        "against the rendered references of a set and write "
        "<out>/<J>of<N>.jsonl, one line a target. tse results collects the parts.",
        epilog="example: tse score --data data/test --est exp/tse/test/wav --out exp/tse/test/scores.part --job 2/8",
    )
    parser.add_argument("--data", required=True, metavar="DATA_DIR", help="the set: data/test")
    parser.add_argument("--est", required=True, metavar="DIR", help="the estimates, <mix_id>.flac or .wav")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the parts go")
    parser.add_argument(
        "--calibration", metavar="YAML", help="calibration.yaml beside the model: how presence is judged (default: not)"
    )
    parser.add_argument(
        "--museval", action="store_true", help="of stems also SDR, ISR, SIR and SAR of 1 s frames (seconds a mixture)"
    )
    parser.add_argument("--job", default="1/1", metavar="J/N", help="score the J-th of N shares (default: all)")
    args = parser.parse_args(argv)

    mixtures = job_share(read_mixtures(Path(args.data) / "mixtures.jsonl"), args.job)
    calibration = build(Calibration, read_yaml(args.calibration), args.calibration) if args.calibration else None
    genders = read_genders(args.data)
    require_estimates(args.est, mixtures)
    job, num_jobs = map(int, args.job.split("/"))  # 01/04 is 1/4
    with replace_file(Path(args.out) / f"{job}of{num_jobs}.jsonl") as file:
        for mixture in tqdm(mixtures, desc="score", unit="mix", dynamic_ncols=True):
            for line in score_mixture(args.data, args.est, mixture, genders, calibration, args.museval):
                file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    for part in Path(args.out).glob("[1-9]*of*.jsonl"):  # not .partial-…, which another share may be writing
        if not part.name.endswith(f"of{num_jobs}.jsonl"):  # of an earlier run with another number of jobs
            part.unlink(missing_ok=True)
