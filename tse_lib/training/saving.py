"""The checkpoints of a run: which are kept, which one it goes on from, and whether it may.

last.pt              the newest, a second name of the newest step_*.pt
step_00000500.pt     the newest `train.keep_last`
milestone_*.pt       of the steps in `train.milestones`, for ever
best.pt              the averaged weights that did best on the development set, for inference
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from tse_lib import checkpoint
from tse_lib.config import Config, build
from tse_lib.data.layers import TrainingData
from tse_lib.files import temporary_for
from tse_lib.manifest import Mixture
from tse_lib.simulation.sample import Corpus
from tse_lib.simulation.stems import StemCorpus
from tse_lib.training.state import State


def save_last(saved: dict[str, Any], conf: Config, exp: Path) -> None:
    """Write the checkpoint of a step, point last.pt at it, and remove those that are too many."""
    numbered = exp / f"step_{saved['step']:08d}.pt"
    checkpoint.save(numbered, saved)
    link(numbered, exp / "last.pt")
    if saved["step"] in conf.train.milestones:
        link(numbered, exp / f"milestone_{saved['step']:08d}.pt")
    for old in sorted(exp.glob("step_*.pt"))[: -conf.train.keep_last]:
        old.unlink()


def save_best(state: State, conf: Config, exp: Path) -> None:
    """What inference needs: the averaged weights under the model's own names, and the conf."""
    deployable = {
        "modules": {"model": state.ema.module.state_dict()},
        "step": state.step,
        "best": state.best,
        "seconds": state.seconds,
        "config": conf.model_dump(mode="json"),
    }
    checkpoint.save(exp / "best.pt", deployable)


def link(path: Path, name: Path) -> None:
    """Give a file a second name, whoever has that now; a copy where the file system has no links."""
    if name.exists() and name.samefile(path):
        return
    with temporary_for(name, sync=False) as temporary:
        os.unlink(temporary)
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)


def newest_whole(exp: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None where there is none at all.

    Raises:
        ValueError: there are some, and all are damaged.
    """
    numbered = sorted([*exp.glob("step_*.pt"), *exp.glob("milestone_*.pt")], key=step_of, reverse=True)
    candidates = [path for path in (exp / "last.pt", *numbered) if path.exists()]
    damaged: list[Path] = []
    faults: list[ValueError] = []
    for path in candidates:
        if any(path.samefile(other) for other in damaged):
            continue
        try:
            saved = checkpoint.load(path)
        except ValueError as fault:
            damaged.append(path)
            faults.append(fault)
            continue
        if faults:
            warn(f"{faults[0]}; going on from {path.name} (step {saved['step']}) instead")
        return saved
    if faults:
        raise ValueError(f"{faults[0]}; no other checkpoint in {exp} is whole; {way_out(exp)}")
    return None


def step_of(path: Path) -> int:
    number = re.search(r"\d+", path.stem)
    return int(number[0]) if number else -1


# ------------------------------------------------------------------------------------------- may this run go on here?

FREE = ("num_workers", "log_every", "save_every", "keep_last", "audio_examples", "bad_files")  # may change


def refuse_other_conf(conf: Config, saved: dict[str, Any], exp: Path) -> None:
    """A run goes on only with the conf it was started with (infrastructure may change)."""

    def flat(values: Any, name: str = "") -> dict[str, Any]:
        if isinstance(values, dict):
            return {key: value for part in values for key, value in flat(values[part], f"{name}.{part}").items()}
        return {name.lstrip("."): values}

    before = build(Config, saved, f"{exp}/last.pt: its conf")  # an earlier release did not know some options
    now, then = (flat(one.model_dump(mode="json")) for one in (conf, before))
    changed = [key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)]
    changed = [key for key in changed if key.split(".")[-1] not in FREE and not key.startswith("inference.")]
    if changed:
        shown = ", ".join(f"{key} was {then.get(key)}, is {now.get(key)}" for key in changed[:4])
        raise ValueError(f"{exp}/last.pt: this run began with another conf ({shown}); {way_out(exp)}")


def refuse_other_data(data: dict[str, str], saved: dict[str, str], exp: Path) -> None:
    """A run goes on only with the data it was started with: what was trained on may be test data now."""
    changed = [name for name in data if name in saved and saved[name] != data[name]]
    if changed:
        what = {"train": "what it is trained on", "dev": "the development mixtures", "teacher": "its teacher"}
        shown = " and ".join(what[name] for name in changed)
        raise ValueError(f"{exp}/last.pt: this run began with other data ({shown} changed); {way_out(exp)}")


def refuse_own_source(conf: Config, exp: Path) -> None:
    """What a run starts from is never in the folder that it writes to."""
    teacher = conf.train.distill.teacher if conf.train.distill else None
    for name, source in (("init_from", conf.train.init_from), ("distill.teacher", teacher)):
        if source and Path(source).resolve().parent == exp.resolve():
            raise ValueError(f"train.{name}: {source} lies in {exp}, where this run writes; give it another --exp")


def way_out(exp: Path) -> str:
    return f"to train anew remove {exp}, to keep both give the conf (or --exp) another name"


def hash_of_corpus(corpus: TrainingData) -> str:
    """Of all that mixtures are drawn from, except where it lies: packing a set changes nothing."""
    if isinstance(corpus, StemCorpus):
        shots = ((hit.stem, hit.instrument, hit.velocity_rank, hit.num_samples) for hit in corpus.oneshots)
        plays = ((play.perf_id, play.hits) for play in corpus.performances)
        return hash_of(chain(shots, plays, ((one.track_id, one.num_samples, one.activity) for one in corpus.tracks)))
    if not isinstance(corpus, Corpus):
        return hash_of((mix.mix_id, mix.num_samples, mix.sample_rate, mix.indoor) for mix in corpus)
    utterances = (
        (utt.utt_id, utt.spk_id, utt.num_samples, utt.sample_rate, utt.activity)
        for utt in chain(corpus.speech, corpus.noise, corpus.all_rirs)
    )
    return hash_of(chain(utterances, ((name, one.tobytes()) for name, one in corpus.embeddings.items())))


def hash_of_mixtures(mixtures: Iterable[Mixture]) -> str:
    """Of what is mixed, except where the files lie."""
    return hash_of(re.sub(r'("path": ")[^"]*/', r"\1", mixture.to_json()) for mixture in mixtures)


def hash_of(parts: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()[:16]
