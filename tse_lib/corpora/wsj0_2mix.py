"""WSJ0-2mix: its published mixtures of two talkers for development and test, and the utterances to train on.

    <root>/…/si_tr_s/011/011c0201.wv1                                      WSJ0, as `tse prepare wsj0` reads it
    <mixtures>/cv/{mix,s1,s2}/<utt1>_<snr1>_<utt2>_<snr2>.wav              5 000 mixtures of speakers of si_tr_s
    <mixtures>/tt/{mix,s1,s2}/<utt1>_<snr1>_<utt2>_<snr2>.wav              3 000 of si_dt_05 and si_et_05
    <enrolls>/{cv,tt}/aux.scp      "<name of the mixture>_<utterance> <path>", a line for each talker of each mixture

J. R. Hershey et al., "Deep clustering" (2016), arXiv 1508.04306. The mixtures are made of WSJ0 by its authors' scripts
for MATLAB (create-speaker-mixtures) or by pywsj0-mix; `<mixtures>` is what they call 2speakers/wav8k/min. They are
read, not mixed again, so that scores are those of the very same samples. The two programs resample differently.

The enrolments that published extractors are scored with are in the lists of SpEx+ (github.com/gemengtju/SpEx_Plus,
data/wsj0_2mix), which are also those of X-TF-GridNet and USEF-TSE. Only names are taken of them: the recordings are
looked for below `<root>`. Without lists each talker's enrolment is drawn, and scores cannot be compared.

Training mixtures are drawn as training goes on ("dynamic mixing"), of utterances of si_tr_s that no cv mixture has. The
speakers of cv are trained on: that is how WSJ0-2mix is.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tse_lib import audio
from tse_lib.corpora import wsj0
from tse_lib.corpora.sets import Recording, listed_path, make_sets
from tse_lib.manifest import Mixture, ReadyMade, Source, read_table, write_mixtures
from tse_lib.parallel import parallel_map
from tse_lib.rng import rng

HELP = "WSJ0-2mix: the published mixtures of two talkers (8 or 16 kHz), ready-made, with WSJ0 to train on"
SUBSETS = {"cv": ("dev", 5000, {"si_tr_s"}), "tt": ("test", 3000, {"si_dt_05", "si_et_05"})}
NAME = re.compile(r"([0-9a-z]{8})_(-?\d+(?:\.\d+)?)_([0-9a-z]{8})_(-?\d+(?:\.\d+)?)")
KINDS = ("mix", "s1", "s2")


@dataclass(frozen=True)
class Mix:
    """A mixture as it lies on the disk: `paths` by KINDS, and what its name says."""

    name: str
    paths: tuple[str, str, str]
    utts: tuple[str, str]
    sir_db: float
    sample_rate: int
    num_samples: int


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: tse prepare wsj0_2mix --root corpora/csr_1 --mixtures corpora/2speakers/wav8k/min --task separate"
    )
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder with WSJ0's discs, or with converted files")
    add("--mixtures", type=Path, required=True, help="the folder with cv and tt, each with mix, s1 and s2")
    add("--task", choices=("separate", "extract"), required=True, help="extract: each talker of a mixture is a target")
    add("--enrolls", type=Path, help="the folder with cv/aux.scp and tt/aux.scp; none: enrolments are drawn")
    add("--converted", type=Path, help="where unpacked copies (flac) of files packed by shorten go")
    add("--out", type=Path, default=Path("data"), help="where the sets go (default: %(default)s)")
    add("--skip_bad", action="store_true", help="go on without files that cannot be used")
    add("--nj", type=int, default=2, help="processes; changes nothing but the speed (default: %(default)s)")


def prepare(
    root: Path,
    mixtures: Path,
    task: str,
    out: Path,
    enrolls: Path | None = None,
    converted: Path | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/train` of si_tr_s, and `out/{dev,test}/mixtures.jsonl` of cv and tt.

    Prints where something is not as published: other numbers of mixtures, or enrolments that were drawn.

    Returns:
        The folder of the training set alone: the others list mixtures, no utterances.

    Raises:
        ValueError, FileNotFoundError: naming files, lines, and the way out.
    """
    files, faults = wsj0.list_files(root)
    genders, more = wsj0.read_genders(root)
    files, unpacking = wsj0.unpack(files, converted, nj)
    faults += more + unpacking
    found: dict[str, list[Mix]] = {}
    for subset in SUBSETS:
        paths, more = _triples(mixtures / subset)
        checked = parallel_map(partial(_check, folder=mixtures / subset), paths, nj, f"reading {subset}")
        faults += more + [result for result in checked if isinstance(result, str)]
        found[subset] = [result for result in checked if isinstance(result, Mix)]
    mixed = {utt for mix in found["cv"] for utt in mix.utts}
    texts: dict[str, list[Mixture]] = {}
    for subset, (_, published, parts) in SUBSETS.items():
        utts = {name: path for (part, name), path in files.items() if part in parts}
        found[subset], more = _without_strangers(found[subset], utts, parts)
        faults += more
        if len(found[subset]) != published:
            print(f"warning: {mixtures / subset}: {len(found[subset])} mixtures; WSJ0-2mix has {published}")
        if task == "separate":
            texts[subset] = [_mixture(mix, mix.utts, genders) for mix in found[subset]]
            continue
        if enrolls is None:
            print(f"warning: {subset}: enrolments are drawn; scores cannot be compared with published ones (--enrolls)")
            # of cv those that are not trained on, if there are any
            listed = list(_drawn(found[subset], sorted(mixed) if subset == "cv" else sorted(utts), sorted(utts)))
        else:
            listed, more = _listed(enrolls / subset / "aux.scp", found[subset], utts)
            faults += more
        texts[subset], more = _extractions(listed, utts, genders)
        faults += more
    trained = [
        Recording(path, name[3:], name[:3], "train", genders.get(name[:3], ""))
        for (part, name), path in sorted(files.items())
        if part == "si_tr_s" and name not in mixed
    ]
    folders = make_sets(
        trained, root, out, faults=faults, sample_rate=wsj0.SAMPLE_RATE, min_s=wsj0.MIN_S, skip_bad=skip_bad, nj=nj
    )
    for subset, (name, _, _) in SUBSETS.items():
        if not texts[subset]:
            raise ValueError(f"{mixtures / subset}: no mixture is left")
        write_mixtures(out / name / "mixtures.jsonl", texts[subset])
    return folders


# -------------------------------------------------------------------------------------------------------- the mixtures


def _triples(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the mixtures, without `.wav`, and what is wrong with them.

    Raises:
        FileNotFoundError: there are none.
    """
    # what begins with a dot is none of the corpus: macOS keeps `._name.wav` beside `name.wav`
    names = {kind: {path.stem for path in (folder / kind).glob("[!.]*.wav")} for kind in KINDS}
    if not names["mix"]:
        raise FileNotFoundError(
            f"{folder / 'mix'}: no .wav files; --mixtures is the folder with cv and tt (…/wav8k/min)"
        )
    faults = [f"{folder}/mix/{name}.wav: <utt1>_<snr1>_<utt2>_<snr2>.wav is expected" for name in sorted(names["mix"])
              if not NAME.fullmatch(name)]  # fmt: skip
    for kind in KINDS[1:]:
        faults += [f"{folder}/{kind}/{name}.wav is missing" for name in sorted(names["mix"] - names[kind])]
    whole = set.intersection(*names.values())
    return sorted(name for name in whole if NAME.fullmatch(name)), faults


def _check(name: str, folder: Path) -> Mix | str:
    """Open a mixture and its sources; what is wrong with them."""
    paths = [folder / kind / f"{name}.wav" for kind in KINDS]
    try:
        heads = [audio.info(path) for path in paths]
    except (ValueError, OSError) as error:
        return str(error)
    for path, head in zip(paths[1:], heads[1:], strict=True):
        if (head.sample_rate, head.num_samples) != (heads[0].sample_rate, heads[0].num_samples):
            return (
                f"{path}: {head.num_samples} samples at {head.sample_rate} Hz, its mixture has {heads[0].num_samples} "
                f"at {heads[0].sample_rate} Hz"
            )
    match = NAME.fullmatch(name)
    assert match
    first, snr, second, other_snr = match.groups()
    mix, one, two = map(listed_path, paths)
    sir_db = float(snr) - float(other_snr)
    return Mix(name, (mix, one, two), (first, second), sir_db, heads[0].sample_rate, heads[0].num_samples)


def _without_strangers(mixes: Sequence[Mix], utts: Mapping[str, Path], parts: set[str]) -> tuple[list[Mix], list[str]]:
    """The mixtures of utterances that the corpus has in these parts, and a line for each of the others."""
    strange = {mix.name: utt for mix in mixes for utt in mix.utts if utt not in utts}
    where = " or ".join(sorted(parts))
    return [mix for mix in mixes if mix.name not in strange], [
        f"{mix.paths[0]}: WSJ0 has no utterance '{strange[mix.name]}' in {where}"
        for mix in mixes
        if mix.name in strange
    ]


# ------------------------------------------------------------------------------------------------------- as text


def _mixture(mix: Mix, order: tuple[str, str], genders: Mapping[str, str], enroll: Source | None = None) -> Mixture:
    """A mixture whose talkers come in this order: the first is the target where there is an enrolment."""
    path_of = dict(zip(mix.utts, mix.paths[1:], strict=True))
    sir_db = mix.sir_db if order == mix.utts else -mix.sir_db
    talkers = tuple(
        Source(
            path_of[utt], 0, mix.num_samples, _utt_id(utt), utt[:3], genders.get(utt[:3], ""), level_db=place * sir_db
        )
        for place, utt in enumerate(order)
    )
    name = mix.name if enroll is None else f"{mix.name}_{''.join(enroll.utt_id.split('-'))}"
    return Mixture(
        mix_id=name,
        sample_rate=mix.sample_rate,
        num_samples=mix.num_samples,
        target_present=True,
        talkers=talkers,
        enrolls=() if enroll is None else (enroll,),
        target="dry",
        ready=ReadyMade(Source(mix.paths[0], 0, mix.num_samples, mix.name), (), ""),
    )


def _utt_id(utt: str) -> str:
    """As in `data/train`: the speaker, then the rest."""
    return f"{utt[:3]}-{utt[3:]}"


Wanted = tuple[Mix, str, str]  # a mixture, the utterance of it that is the target, the enrolment


def _listed(path: Path, mixes: Sequence[Mix], utts: Mapping[str, Path]) -> tuple[list[Wanted], list[str]]:
    """What a list of SpEx+ says, in its order, and what is wrong with its lines."""
    mix_of = {mix.name: mix for mix in mixes}
    wanted: list[Wanted] = []
    faults = []
    for key in read_table(path):
        name, _, enroll = key.rpartition("_")
        mix = mix_of.get(name)
        if mix is None:
            faults.append(f"{path}: {key}: there is no mixture '{name}'")
            continue
        targets = [utt for utt in mix.utts if utt[:3] == enroll[:3]]
        if enroll not in utts or enroll in mix.utts or len(targets) != 1:
            faults.append(f"{path}: {key}: '{enroll}' is no other utterance of one of its talkers")
        else:
            wanted.append((mix, targets[0], enroll))
    if not faults and len(wanted) != 2 * len(mixes):
        faults.append(f"{path}: {len(wanted)} lines for {len(mixes)} mixtures of two talkers")
    return wanted, faults


def _drawn(mixes: Sequence[Mix], first: Sequence[str], then: Sequence[str]) -> Iterator[Wanted]:
    """Each talker of each mixture with an enrolment that is not mixed, of `first` or, if it has none, of `then`."""
    for mix in mixes:
        for target in mix.utts:
            own = [[utt for utt in utts if utt[:3] == target[:3] and utt not in mix.utts] for utts in (first, then)]
            choice = own[0] or own[1]
            if not choice:
                raise ValueError(f"{mix.paths[0]}: speaker '{target[:3]}' has no utterance that is not mixed")
            yield mix, target, choice[int(rng(0, "enroll", mix.name, target).integers(len(choice)))]


def _extractions(
    wanted: Sequence[Wanted], utts: Mapping[str, Path], genders: Mapping[str, str]
) -> tuple[list[Mixture], list[str]]:
    mixtures: list[Mixture] = []
    faults: list[str] = []
    heads: dict[str, audio.Info] = {}
    for mix, target, utt in wanted:
        try:
            head = heads[utt] if utt in heads else audio.info(utts[utt])
        except (ValueError, OSError) as error:
            faults.append(str(error))
            continue
        heads[utt], speaker = head, utt[:3]
        enroll = Source(listed_path(utts[utt]), 0, head.num_samples, _utt_id(utt), speaker, genders.get(speaker, ""))
        other = mix.utts[1 - mix.utts.index(target)]
        mixtures.append(_mixture(mix, (target, other), genders, enroll))
    return mixtures, faults
