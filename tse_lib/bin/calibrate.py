"""tse calibrate: what a model's outputs tell about the wanted talker's presence."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from tse_lib.bin.device import add_device_options
from tse_lib.bin.enroll import load_extractor
from tse_lib.config import Calibration, given_dim_of
from tse_lib.data.dataset import RenderedMixtures
from tse_lib.files import require_writable
from tse_lib.inference.calibration import place_of, write_calibration
from tse_lib.metrics.detection import features, fit, truth
from tse_lib.rng import rng


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse calibrate",
        description="Fit the probability, second by second, that the wanted talker speaks in an output, and the "
        "threshold where as many seconds without the talker are accepted as seconds with it are rejected. Each mixture "
        "of a rendered development set is extracted with its own enrolments, and with those of somebody who is not in "
        "it. Writes calibration.yaml beside the checkpoint, or into a packed model's model.yaml.",
        epilog="example: tse calibrate --model exp/tse/best.pt --data data/dev; "
        "tse extract meeting.wav --enroll alice.wav --model exp/tse/best.pt -o alice.wav --presence alice.json --gate",
    )
    parser.add_argument("--model", required=True, help="best.pt or a packed model folder")
    parser.add_argument("--data", required=True, metavar="DATA_DIR", help="rendered mixtures, not those of the test")
    add_device_options(parser)
    args = parser.parse_args(argv)

    extractor = load_extractor(args.model, args)
    mixtures = RenderedMixtures(args.data, extractor.sample_rate, given_dim_of(extractor.conf.model))
    mixtures.refuse_other_task("extract")
    require_writable(place_of(Path(args.model)))
    rate, seconds, speaks = extractor.sample_rate, [], []
    for wave, enrolls, target in tqdm(examples(mixtures), desc="calibrate", unit="run", dynamic_ncols=True):
        seconds.append(features(wave.numpy(), extractor.extract(wave, extractor.as_enrolments(enrolls), rate), rate))
        speaks.append(truth(target, wave.numpy(), rate))
    try:
        found = fit(np.concatenate(seconds), np.concatenate(speaks))
    except ValueError as error:
        raise ValueError(f"{args.data}: {error}") from None
    calibration = Calibration(model=extractor.fingerprint, data=Path(args.data).name, **found._asdict())
    path = write_calibration(Path(args.model), extractor.conf, calibration)
    print(
        f"{path}: equal error rate {100 * found.equal_error_rate:.1f} % of {found.seconds_present} seconds with and "
        f"{found.seconds_absent} without the wanted talker, at a probability of {found.threshold:.2f}"
    )


def examples(mixtures: RenderedMixtures) -> Iterator[tuple[Tensor, list[Tensor], np.ndarray | None]]:
    """Mixture, enrolments and target (None: absent): each mixture as it is, and with the enrolments of an absentee."""
    for number, mixture in enumerate(mixtures.mixtures):
        item = mixtures[number]
        yield item["mixture"], item["enrolls"], item["target"][0].numpy() if mixture.target_present else None
        own = {source.spk_id for source in (*mixture.talkers, *mixture.enrolls)}
        absentees = [place for place, other in enumerate(mixtures.mixtures) if other.enrolls[0].spk_id not in own]
        if absentees:
            place = absentees[int(rng(0, "calibrate", mixture.mix_id).integers(len(absentees)))]
            yield item["mixture"], mixtures[place]["enrolls"], None
