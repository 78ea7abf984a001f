"""tse inspect: look at and listen to what is drawn, before anything is trained on it."""

import argparse
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tse_lib import audio
from tse_lib.bin.train import add_data_options, corpus_of, positive
from tse_lib.config import Config, Sets, Simulation, Stems, load_config, load_sets, read_yaml, simulation_at
from tse_lib.data.dataset import DrawnMixtures, load_rir, load_waveforms
from tse_lib.data.stems import StemMixtures, load_stems
from tse_lib.dsp.level import active_samples, rms
from tse_lib.evaluation import inspection, inspection_stems
from tse_lib.evaluation.inspection import GENERATOR, Measured, Part, Shown, inspection_page, numbers_of, sound_path
from tse_lib.evaluation.inspection_stems import ShownStems, StemPart
from tse_lib.manifest import Mixture
from tse_lib.simulation.render import Rendered, render
from tse_lib.simulation.sample import Corpus, sample, sample_set
from tse_lib.simulation.stems import RenderedStems, StemCorpus, sample_stems, stem_set

NOT_HERE = "{}: its mixtures are ready-made, not drawn; listen to them in data/<set>/mixtures (tse render makes them)"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse inspect",
        description="Draw mixtures of an experiment as training draws them, or those of conf/sets.yaml, and write a "
        "folder with index.html to look at and to listen to: audio, spectrograms, who speaks when, everything drawn, "
        "histograms of many draws, and what was asked for against what is there.",
        epilog="example: tse inspect conf/tse.yaml --train train --noise noise_train; tse inspect conf/sets.yaml",
    )
    parser.add_argument("conf", help="an experiment (conf/tse.yaml) or fixed sets (conf/sets.yaml)")
    add_data_options(parser)
    parser.add_argument(
        "--step", type=int, nargs="+", help="of an experiment: optimizer steps to draw at (default: wherever the "
        "curriculum or a schedule turns)",
    )  # fmt: skip
    parser.add_argument("--sets", nargs="+", metavar="SET", help="of fixed sets: which (default: all)")
    parser.add_argument("-n", "--num", type=positive, default=12, help="mixtures of each step or set to render "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--draws", type=positive, default=2000, help="draws of each step to count, as text (default: "
                        "%(default)s); a fixed set is counted whole")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("inspect"), help="folder to write (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="write the numbers to inspection.json in it, too")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override: train.lr=1e-4")
    args = parser.parse_args(argv)

    refuse_other_folder(args.out)
    values = read_yaml(args.conf)
    conf: Config | Sets
    if isinstance(values, dict) and "sets" in values:
        conf = load_sets(args.conf)
        parts = parts_of_sets(conf, args)
    else:
        conf = load_config(args.conf, args.set)
        parts = parts_of_training(conf, args)
    kind: Any = inspection_stems if isinstance(parts[0], StemPart) else inspection
    origin = [
        f"conf {args.conf}", f"seed {conf.seed}", f"{conf.sample_rate} Hz", f"tse inspect {shlex.join(argv)}",
    ]  # fmt: skip
    with replaced_folder(args.out) as folder:
        for part in parts:
            write_audio(folder, part)
        text = inspection_page(Path(args.conf).stem, parts, kind.sections(parts), origin)
        (folder / "index.html").write_text(text, encoding="utf-8")
        if args.json:
            text = json.dumps({"conf": str(args.conf), "seed": conf.seed, "parts": inspection.as_json(parts)})
            (folder / "inspection.json").write_text(text + "\n", encoding="utf-8")
    print(kind.as_text(parts))
    print(args.out / "index.html")


# ------------------------------------------------------------------------------------------------------------- drawing


def parts_of_training(conf: Config, args: argparse.Namespace) -> list[Part] | list[StemPart]:
    """Of each step the training mixtures from its first on, and the numbers of draws with the conf as it is there."""
    if args.sets:
        raise ValueError(f"--sets {args.sets[0]}: {args.conf} is an experiment; its sets are in conf/sets.yaml")
    last = conf.train.max_steps - 1
    wrong = [step for step in args.step or [] if not 0 <= step <= last]
    if wrong:
        raise ValueError(f"--step {wrong[0]}: {args.conf} trains for {last + 1} steps, 0 to {last}")
    corpus = corpus_of(args, conf)
    if not isinstance(corpus, (Corpus, StemCorpus)):
        raise ValueError(NOT_HERE.format(args.conf))
    parts: list[Any] = []
    for step in sorted(set(args.step or turns(conf))):
        first = step * conf.train.batch_size * conf.train.accumulate
        simulation: Any = simulation_at(conf, step)
        draw: Any = sample if isinstance(corpus, Corpus) else sample_stems
        drawn = (
            draw(corpus, simulation, conf.sample_rate, conf.seed, "train", f"train-{index}")
            for index in range(first, first + args.draws)
        )
        draws = list(tqdm(drawn, f"step {step}: draw", args.draws, leave=False))
        name, indices = f"step {step}", range(first, first + args.num)
        if isinstance(corpus, Corpus):
            parts.append(part_of(name, simulation, corpus, draws, as_trained(corpus, conf, indices)))
        else:
            parts.append(stem_part_of(name, simulation, draws, stems_as_trained(corpus, conf, indices)))
    return parts


def parts_of_sets(sets: Sets, args: argparse.Namespace) -> list[Part] | list[StemPart]:
    """Of each fixed set its first mixtures, and the numbers of all."""
    if args.set or args.step:
        option = f"--set {args.set[0]}" if args.set else f"--step {args.step[0]}"
        raise ValueError(f"{option}: {args.conf} holds fixed sets, which --sets chooses; no other option changes them")
    unknown = sorted(set(args.sets or []) - set(sets.sets))
    if unknown:
        raise ValueError(f"--sets {unknown[0]}: {args.conf} has {', '.join(sets.sets)}")
    names = args.sets or list(sets.sets)
    kinds = {type(sets.sets[name].simulation) for name in names}
    if not kinds <= {Simulation, Stems}:
        raise ValueError(NOT_HERE.format(args.conf))
    if len(kinds) > 1:
        raise ValueError(f"{args.conf}: has sets of talkers and sets of stems; --sets chooses those of one kind")
    parts: list[Any] = []
    for name in names:
        simulation = sets.sets[name].simulation
        if isinstance(simulation, Stems):
            mixtures = stem_set(args.data, name, sets)
            shown = ((mixture, load_stems(mixture)) for mixture in mixtures[: args.num])
            parts.append(stem_part_of(name, simulation, mixtures, shown))
        else:
            assert isinstance(simulation, Simulation)
            corpus, mixtures = sample_set(args.data, name, sets)
            parts.append(part_of(name, simulation, corpus, mixtures, mixtures[: args.num]))
    return parts


def turns(conf: Config) -> list[int]:
    """The steps at which another stretch of the curriculum or of a schedule begins."""
    steps = {step for knots in conf.schedule.values() for step in knots}
    steps |= {stretch.until_step for stretch in conf.curriculum}
    return sorted({0, *(step for step in steps if step < conf.train.max_steps)})


def as_trained(corpus: Corpus, conf: Config, indices: Sequence[int]) -> list[Mixture]:
    """What these training items are, once what cannot be used was drawn anew."""
    raw = conf.simulation.model_copy(update={"render_on": "device"})  # such items come with their text
    drawn = DrawnMixtures(corpus, conf.model_copy(update={"simulation": raw}))
    items = [drawn[index] for index in indices]
    faults = [fault for item in items for fault in item["bad_files"]]
    refuse_bad_files(faults, conf)
    return [item["text"] for item in items]


def part_of(
    name: str, simulation: Simulation, corpus: Corpus, draws: Sequence[Mixture], mixtures: Sequence[Mixture]
) -> Part:
    """Render and measure `mixtures`, and take the numbers of `draws`."""
    rates = {utt.path: utt.sample_rate for utt in chain(corpus.speech, corpus.noise)}
    rir_sets = {(rir.path, rir.start): name for name, rirs in corpus.rirs.items() for rir in rirs}
    numbers = [numbers_of(mixture, rates, rir_sets) for mixture in draws]
    shown = [shown_of(mixture) for mixture in tqdm(mixtures, f"{name}: render", leave=False)]
    return Part(name, simulation, numbers, shown, corpus.speakers, rates, rir_sets)


def stems_as_trained(
    corpus: StemCorpus, conf: Config, indices: Sequence[int]
) -> Iterator[tuple[Mixture, RenderedStems]]:
    """What these training items are, once what cannot be used was drawn anew."""
    drawn = StemMixtures(corpus, conf)
    for index in indices:
        mixture, rendered, faults = drawn.usable(index)
        refuse_bad_files(faults, conf)
        yield mixture, rendered


def refuse_bad_files(faults: Sequence[str], conf: Config) -> None:
    if faults and conf.train.bad_files == "stop":
        raise ValueError(f"{faults[0]}; train.bad_files: skip goes on without such files")


def stem_part_of(
    name: str, simulation: Stems, draws: Sequence[Mixture], shown: Iterable[tuple[Mixture, RenderedStems]]
) -> StemPart:
    shown = tqdm(shown, f"{name}: render", leave=False)
    numbers = [inspection_stems.numbers_of(mixture) for mixture in draws]
    return StemPart(name, simulation, numbers, [shown_stems_of(*one) for one in shown])


# ----------------------------------------------------------------------------------------------------------- measuring


def shown_stems_of(mixture: Mixture, rendered: RenderedStems) -> ShownStems:
    rate, stems = mixture.sample_rate, dict(zip(mixture.source_names, rendered.targets, strict=True))
    whole = level_db(rendered.mixture.flatten())
    return ShownStems(
        mixture=mixture,
        signals={name: wave.numpy() for name, wave in {"mixture": rendered.mixture, **stems}.items()},
        heard={
            name: runs(active_samples(wave, rate).any(0).numpy(), rate) if wave.any() else []
            for name, wave in stems.items()
        },
        levels_db={name: level_db(wave.flatten()) - whole for name, wave in stems.items() if wave.any()},
    )


def shown_of(mixture: Mixture) -> Shown:
    """Render a mixture as training does, and measure it."""
    rendered = render(mixture, load_waveforms(mixture))
    present = mixture.target_present
    waves = {"mixture": rendered.mixture}
    if present:
        waves["target"] = rendered.targets[0]
    waves |= {f"enroll{number}": wave for number, wave in enumerate(rendered.enrolls, 1)}
    waves |= {f"interferer{number}": image for number, image in enumerate(rendered.images[int(present) :], 1)}
    if rendered.noise is not None:
        waves["noise"] = rendered.noise
    if present and mixture.target != "reverberant" and mixture.talkers[0].rir:
        waves["image"] = rendered.images[0]
    rate = mixture.sample_rate
    sources = {f"interferer{number}": source for number, source in enumerate(mixture.interferers, 1)}
    sources |= {f"enroll{number}": source for number, source in enumerate(mixture.enrolls, 1)}
    sources |= {"target": mixture.talkers[0]} if present else {}
    return Shown(
        mixture=mixture,
        signals={kind: wave.numpy() for kind, wave in waves.items()},
        speech={kind: runs(active_samples(waves[kind], rate).numpy(), rate) for kind in sources},
        rt60_s={
            kind: reverberation_s(load_rir(source.rir, rate).numpy(), rate)
            for kind, source in sources.items()
            if source.rir
        },
        measured=measure(mixture, rendered),
    )


def measure(mixture: Mixture, rendered: Rendered) -> Measured:
    images = [image.double() for image in rendered.images]
    whole, rate = rendered.mixture.double(), mixture.sample_rate
    active = active_samples(images[0], rate)
    peak = float(whole.abs().max())
    at_peak = int((whole.abs() >= 0.99999 * peak).sum())
    overlap = None
    if mixture.target_present:
        others = [active_samples(image, rate) for image in images[1:]]
        both = active & torch.stack(others).any(0) if others else torch.zeros_like(active)
        overlap = float(both.sum() / active.sum().clamp_min(1))
    noise = None if rendered.noise is None else rendered.noise.double()
    return Measured(
        sir_db=[
            (source.level_db, ratio_db(images[0], image, active, rate))
            for source, image in zip(mixture.talkers[1:], images[1:], strict=True)
        ],
        snr_db=None
        if noise is None or mixture.noise is None
        else (mixture.noise.level_db, ratio_db(torch.stack(images).sum(0), noise, active, rate)),
        level_dbfs=(mixture.level_dbfs, level_db(whole)),
        cut=bool(mixture.clip_db or mixture.masks),
        peak=peak,
        clipped=at_peak / len(whole) if mixture.clip_db else 0.0,
        overlap=overlap,
    )


def ratio_db(signal: Tensor, other: Tensor, active: Tensor, sample_rate: int) -> float:
    """`signal` (T,) over `other` (T,) where `active`; what is silent there counts where it is active itself."""
    own = active_samples(other, sample_rate)
    where = active if level_db(other, active) > level_db(other, own) - 60 else own
    return level_db(signal, active) - level_db(other, where)


def level_db(signal: Tensor, where: Tensor | None = None) -> float:
    return 20 * float(rms(signal, where).clamp_min(1e-8).log10())


def runs(active: np.ndarray, sample_rate: int) -> list[tuple[float, float]]:
    """Where a (T,) bool is true: from when to when, in seconds."""
    edges = np.flatnonzero(np.diff(active.astype(np.int8), prepend=0, append=0)) / sample_rate
    return [(float(begin), float(end)) for begin, end in zip(edges[::2], edges[1::2], strict=True)]


def reverberation_s(response: np.ndarray, sample_rate: int) -> float | None:
    """RT60 of a response (T,) as T20 of ISO 3382: the decay from -5 to -25 dB, by Schroeder's backward integration.

    None where the response does not decay that far.
    """
    energy = np.cumsum(np.square(response[::-1], dtype=np.float64))[::-1]
    decay_db = 10 * np.log10(np.maximum(energy / max(energy[0], 1e-30), 1e-12))
    begin, end = (int(np.searchsorted(-decay_db, level)) for level in (5, 25))
    if end - begin < 2 or end >= len(response):
        return None
    slope = np.polyfit(np.arange(begin, end) / sample_rate, decay_db[begin:end], 1)[0]
    return float(-60 / slope)


# ------------------------------------------------------------------------------------------------------------- writing


def write_audio(folder: Path, part: Part | StemPart) -> None:
    """Every signal as 16-bit wav where the page expects it; render leaves nothing above full scale."""
    for shown in part.shown:
        for kind, signal in shown.signals.items():
            samples = np.clip(np.round(signal * 2.0**15), -(2**15), 2**15 - 1).astype(np.int16)
            path = folder / sound_path(part, shown.mixture, kind)
            audio.write_pcm16(path, [samples.T], shown.mixture.sample_rate, len(np.atleast_2d(samples)))


def refuse_other_folder(out: Path) -> None:
    """Only an earlier inspection, or an empty folder, is overwritten."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    index = out / "index.html"
    if not index.is_file() or GENERATOR not in index.read_text(encoding="utf-8", errors="replace")[:1000]:
        raise ValueError(f"--out {out}: is there already and is no inspection; choose another folder or remove it")


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `out` when the block ends well, and is removed when it does not."""
    out = Path(os.path.realpath(out))  # a link stays one, and the page lies where it leads
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".partial-", dir=out.parent))
    try:
        fresh = work / "new"
        fresh.mkdir()
        yield fresh
        if out.exists():
            os.rename(out, work / "old")
        os.rename(fresh, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
