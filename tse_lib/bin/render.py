"""tse render: make the audio of drawn mixtures."""

import argparse
from pathlib import Path

from tqdm import tqdm

from tse_lib import audio
from tse_lib.data.dataset import load_waveforms, target_kinds
from tse_lib.data.layers import read_ready
from tse_lib.data.stems import load_stems
from tse_lib.manifest import Mixture, audio_path, job_share, read_mixtures
from tse_lib.simulation.render import render


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse render",
        description="Render data/<set>/mixtures.jsonl to data/<set>/mixtures/<kind>/<mix_id>.flac (24 bit); "
        "kinds: mixture, noise; of an extraction target, interferer1…, enroll1…, of a separation source1… or the names "
        "of its stems.",
        epilog="example: tse render data/dev data/test --job 1/4",
    )
    parser.add_argument("sets", nargs="+", metavar="DATA_DIR")
    parser.add_argument("--job", default="1/1", metavar="J/N", help="do the J-th of N shares (default: all)")
    args = parser.parse_args(argv)

    work = [(folder, mixture) for folder in args.sets for mixture in read_mixtures(Path(folder) / "mixtures.jsonl")]
    for folder, mixture in tqdm(job_share(work, args.job), desc="render", unit="mix", dynamic_ncols=True):
        write_rendered(folder, mixture)


def write_rendered(folder: str, mixture: Mixture) -> None:
    if mixture.stems:
        of_stems = load_stems(mixture)
        for kind, wave in zip(("mixture", *mixture.source_names), (of_stems.mixture, *of_stems.targets), strict=True):
            audio.write(audio_path(folder, kind, mixture.mix_id), wave.numpy(), mixture.sample_rate)
        return
    rendered = read_ready(mixture) if mixture.ready else render(mixture, load_waveforms(mixture))
    waves = {"mixture": rendered.mixture, **dict(zip(target_kinds(mixture), rendered.targets, strict=False))}
    if mixture.enrolls:
        others = rendered.images[int(mixture.target_present) :]
        waves |= {f"interferer{number}": image for number, image in enumerate(others, 1)}
    if rendered.noise is not None:
        waves["noise"] = rendered.noise
    waves |= {f"enroll{number}": wave for number, wave in enumerate(rendered.enrolls, 1)}
    for kind, wave in waves.items():
        audio.write(audio_path(folder, kind, mixture.mix_id), wave.numpy(), mixture.sample_rate)
