"""How many enrolments, whose, and is anybody there? A trained extractor on rendered mixtures, as Markdown tables.

    tools/enrolments.py --model exp/tse/best.pt [--data data/test_enrolls] [--speech data/test] [--absent data/test]

Run it in a recipe's folder after stage 5, where a set has mixtures with several enrolments each (`num_enrolls: 5`).
- 1, 2, 3, 5 of them, heard in the network's own way or extracted with one by one and averaged: SI-SDRi of present
  targets, the share that is nearer to an interferer than to the target (confused), and the gain over the first alone.
- The reference swap: the same mixtures with an enrolment of their first interferer, another utterance than the mixed
  one: how often the output is nearer to that interferer than to the target, and to everybody else.
- Absent targets: attenuation, before and after the gate; seconds judged wrongly at the threshold of `tse calibrate`.
Brackets: 95 % bootstrap intervals over mixtures.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import tse_lib
from tse_lib import audio
from tse_lib.data.dataset import RenderedMixtures
from tse_lib.evaluation.results import table
from tse_lib.evaluation.summary import bootstrap_interval
from tse_lib.inference.extractor import Extractor
from tse_lib.inference.gate import gate
from tse_lib.manifest import Mixture, Utterance, audio_path, by_speaker, read_data_dir
from tse_lib.metrics.detection import error_rates
from tse_lib.metrics.presence import attenuation_db, is_confused, is_false_accept
from tse_lib.metrics.sdr import si_sdr
from tse_lib.rng import rng

WAYS = {"network": "the network's own", "estimates": "mean of estimates"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="best.pt or a packed model folder")
    parser.add_argument("--data", default="data/test_enrolls", help="(default: %(default)s)")
    parser.add_argument("--speech", default="data/test", help="what its talkers are from (default: %(default)s)")
    parser.add_argument("--absent", default="data/test", help="a set with absent targets (default: %(default)s)")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 3, 5], help="(default: 1 2 3 5)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    extractor = tse_lib.load(args.model)
    print(
        "\n".join(
            [*of_enrolments(extractor, args.data, args.speech, args.counts), "", *of_absent(extractor, args.absent)]
        )
    )


def of_enrolments(extractor: Extractor, data: str, speech: str, counts: Sequence[int]) -> list[str]:
    utterances = read_data_dir(speech)
    speakers = by_speaker(utterances)
    mixtures = RenderedMixtures(data, extractor.sample_rate)
    rate = extractor.sample_rate
    found: dict[tuple[str, int], list[tuple[float, bool]]] = {}  # SI-SDRi, confused
    swapped = []  # nearer to the interferer than to the target, than to everybody else, SI-SDRi of that interferer
    for number, mixture in enumerate(tqdm(mixtures.mixtures, desc=Path(data).name, disable=None)):
        if not mixture.target_present:
            continue
        item = mixtures[number]
        mixed, target = item["mixture"].numpy(), item["target"][0].numpy()
        others = [
            audio.read(audio_path(data, f"interferer{place}", mixture.mix_id))[0]
            for place in range(1, len(mixture.interferers) + 1)
        ]
        if len(item["enrolls"]) < max(counts):
            raise ValueError(f"{data}: {mixture.mix_id} has {len(item['enrolls'])} enrolments of {max(counts)}")
        alone = [extractor.extract(mixed, one, rate) for one in item["enrolls"][: max(counts)]]
        for count in counts:
            together = alone[0] if count == 1 else extractor.extract(mixed, item["enrolls"][:count], rate)
            for way, estimate in (("network", together), ("estimates", np.mean(alone[:count], 0))):
                gain = si_sdr(target, estimate) - si_sdr(target, mixed)
                found.setdefault((way, count), []).append((gain, is_confused(target, others, estimate)))
        other = enrolment_of_interferer(
            mixture, [utterances[place] for place in speakers[mixture.interferers[0].spk_id]]
        )
        estimate = extractor.extract(mixed, other, rate)
        theirs = [si_sdr(target, estimate), *(si_sdr(one, estimate) for one in others)]
        wanted = theirs.pop(1)
        swapped.append((wanted > theirs[0], wanted > max(theirs), wanted - si_sdr(others[0], mixed)))
    rows, first = [], np.array(found["network", counts[0]], float)[:, 0]
    for (way, count), values in sorted(found.items(), key=lambda entry: (list(WAYS).index(entry[0][0]), entry[0][1])):
        gains, confused = np.array(values, float).T
        if count > counts[0] or way == "network":
            than_first = decibel(gains - first, "+") if count > counts[0] else ""
            rows.append([str(count), WAYS[way] if count > 1 else "", decibel(gains), percent(confused), than_first])
    head = ["enrolments", "together", "SI-SDRi (dB)", "confused", f"more than with {counts[0]} (dB)"]
    nearer, nearest, gains = np.array(swapped, float).T
    swaps = [
        ["nearer to that interferer than to the target (swap rate)", percent(nearer)],
        ["nearest to that interferer of all talkers", percent(nearest)],
        ["SI-SDRi of that interferer (dB)", decibel(gains)],
    ]
    title = f"{len(swapped)} mixtures with an enrolment of an interferer"
    return [*table(head, rows), "", *table([title, ""], swaps)]


def enrolment_of_interferer(mixture: Mixture, own: Sequence[Utterance]) -> np.ndarray:
    """Another utterance than the mixed one, drawn by the mixture's name and as long as its enrolments at most: (T,)."""
    mixed = {source.utt_id for source in mixture.talkers}
    spare = [utt for utt in own if utt.utt_id not in mixed]
    if not spare:
        raise ValueError(f"{mixture.mix_id}: its interferer {own[0].spk_id} has no other utterance to enrol with")
    utt = spare[int(rng(0, "swap", mixture.mix_id).integers(len(spare)))]
    longest = round(max(source.num_samples / mixture.sample_rate for source in mixture.enrolls) * utt.sample_rate)
    wave, rate = audio.read(utt.path, start=utt.start, num_samples=min(utt.num_samples, longest))
    return audio.resample(wave, rate, mixture.sample_rate)


def of_absent(extractor: Extractor, data: str) -> list[str]:
    mixtures, rate, calibration = (
        RenderedMixtures(data, extractor.sample_rate),
        extractor.sample_rate,
        extractor.calibration,
    )
    found: dict[str, list[float]] = {}
    for number, mixture in enumerate(tqdm(mixtures.mixtures, desc=Path(data).name, disable=None)):
        item = mixtures[number]
        mixed = item["mixture"].numpy()
        target = item["target"][0].numpy() if mixture.target_present else None
        plain = extractor.extract(mixed, item["enrolls"], rate)
        for name, value in error_rates(target, plain, mixed, rate, calibration).items():
            found.setdefault(name, []).append(value)
        gated = gate(plain, extractor.presence(mixed, plain, rate), calibration.threshold, rate)
        for kind, estimate in (("plain", plain), ("gated", gated)):
            if target is None:
                attenuation = attenuation_db(mixed, estimate)
                found.setdefault(f"{kind} attenuation", []).append(attenuation)
                found.setdefault(f"{kind} accepted", []).append(is_false_accept(attenuation))
            else:
                found.setdefault(f"{kind} si_sdri", []).append(si_sdr(target, estimate) - si_sdr(target, mixed))
    rows = [
        ["absent: attenuation (dB)", decibel(found["plain attenuation"]), decibel(found["gated attenuation"])],
        ["absent: louder than mixture - 20 dB", percent(found["plain accepted"]), percent(found["gated accepted"])],
        ["present: SI-SDRi (dB)", decibel(found["plain si_sdri"]), decibel(found["gated si_sdri"])],
        ["seconds without the target judged present (false accept)", percent(found["presence_false_accept"]), ""],
        ["seconds with the target judged absent (false reject)", percent(found["presence_false_reject"]), ""],
    ]
    title = f"{len(found['plain si_sdri'])} present, {len(found['plain attenuation'])} absent targets"
    told = f"Calibrated on {calibration.data}: equal error rate {100 * calibration.equal_error_rate:.1f} %, threshold "
    return [f"{told}{calibration.threshold:.2f}.", "", *table([title, "output", "gated"], rows)]


def limits(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % interval."""
    column = np.array(values, float)[:, None]
    low, high = bootstrap_interval(column, np.ones_like(column), rng(0, "enrolments"))[:, 0]
    return float(column.mean()), float(low), float(high)


def decibel(values: Sequence[float] | np.ndarray, sign: str = "") -> str:
    mean, low, high = limits(values)
    return f"{mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def percent(values: Sequence[float] | np.ndarray) -> str:
    mean, low, high = (100 * value for value in limits(values))
    return f"{mean:.1f} % [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
