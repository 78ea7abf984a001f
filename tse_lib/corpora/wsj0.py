"""WSJ0: newspaper sentences read at a close microphone, 16 kHz, from the discs of the LDC or converted before.

    <root>/…/si_tr_s/011/011c0201.wv1      101 speakers, train and dev
    <root>/…/si_dt_05/050/050c0101.wv1     10 speakers, test
    <root>/…/si_et_05/440/440c0201.wv1     8 speakers, test

J. Garofolo et al., "CSR-I (WSJ0) Complete", LDC93S6A (LDC93S6B has the first microphone alone). The discs differ in
what lies above these folders (wsj0/, 11-1.1/wsj0/, 13-16.1/wsj0/): they are searched for below the root. Instead of
.wv1 there may be .wav or .flac of the same names. The speaker is the first three characters of a name.

The test set is that of wsj0-2mix. Its dev set (cv) has other utterances of the speakers in train; the sets here must
not share speakers, so dev is a share of the speakers of si_tr_s, drawn by `--seed`.

A .wv1 is a NIST SPHERE file: a header of 1024 bytes, then samples, usually packed by `shorten`, which needs LDC's
program sph2pipe to unpack.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from tse_lib import audio
from tse_lib.corpora.sets import Recording, add_set_options, audio_files, make_sets
from tse_lib.parallel import parallel_map
from tse_lib.rng import seed_of

HELP = "WSJ0: read newspaper English (16 kHz), from LDC93S6A or LDC93S6B"
LICENCE = "under a licence of the LDC"
ADDRESS = "https://catalog.ldc.upenn.edu/LDC93S6A"
SAMPLE_RATE = 16000
MIN_S = 0.5  # some sentences last less than the usual 1 s
DEV_SHARE = 0.1
SUBSETS = {"si_tr_s": "train", "si_dt_05": "test", "si_et_05": "test"}
EXTENSIONS = (".flac", ".wav", ".wv1")  # of several of one utterance, the first is taken
SPHERE_HEADER = 1024


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        f"example: tse prepare wsj0 --root corpora/csr_1 --converted corpora/wsj0_flac; --min_s is {MIN_S} here"
    )
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder with the discs, or with converted files")
    add("--converted", type=Path, help="where unpacked copies (flac) of files packed by shorten go")
    add("--dev_share", type=float, default=DEV_SHARE, help="of the speakers of si_tr_s (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the split into train and dev (default: %(default)s)")
    add_set_options(parser)


def prepare(
    root: Path,
    out: Path,
    prefix: str = "",
    converted: Path | None = None,
    dev_share: float = DEV_SHARE,
    seed: int = 0,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}`; prints whose gender is not known.

    Args:
        converted: a folder for the unpacked copies of packed files; those that are there already are used.
        dev_share, seed: of the speakers of si_tr_s, at least one.
        min_s: None: 0.5 s, so that the corpus as it was published has no fault.
        skip_bad, nj: as in `make_sets`.

    Raises:
        ValueError, FileNotFoundError: naming files, lines, and the way out.
    """
    if not 0 < dev_share < 1:
        raise ValueError(f"--dev_share {dev_share:g}: between 0 and 1")
    paths, faults = list_files(root)
    genders, more = read_genders(root)
    faults += more
    paths, more = unpack(paths, converted, nj)
    faults += more
    split_of = _split({name[:3]: subset for (subset, name) in paths}, dev_share, seed)
    unknown = sorted(set(split_of) - set(genders))
    if unknown:
        shown = ", ".join(unknown[:5]) + ", …" * (len(unknown) > 5)
        print(
            f"warning: the gender of {len(unknown)} speakers is not known ({shown}); {ADDRESS} documents "
            "wsj0-train-spkrinfo.txt, to be put below the root"
        )
    recordings = [
        Recording(path, name[3:], name[:3], split_of[name[:3]], genders.get(name[:3], ""))
        for (_, name), path in sorted(paths.items())
    ]
    return make_sets(
        recordings,
        root,
        out,
        prefix,
        faults=faults,
        sample_rate=SAMPLE_RATE,
        min_s=MIN_S if min_s is None else min_s,
        skip_bad=skip_bad,
        nj=nj,
    )


Files = dict[tuple[str, str], Path]  # by subset and name, as ("si_tr_s", "011c0201")


def list_files(root: Path) -> tuple[Files, list[str]]:
    """The utterances of SUBSETS below the root, and what is wrong with their names."""
    paths: Files = {}
    faults = []
    for path in audio_files(root, EXTENSIONS):
        folders = [part.lower() for part in path.relative_to(root).parts[:-1]]
        subset = next((part for part in folders if part in SUBSETS), None)
        if subset is None:
            continue
        name = path.stem.lower()
        if not re.fullmatch(r"[0-9a-z]{8}", name) or folders[-1] != name[:3]:
            faults.append(f"{path}: {subset}/<speaker>/<speaker><5 characters> is expected")
            continue
        other = paths.setdefault((subset, name), path)
        order = [EXTENSIONS.index(candidate.suffix.lower()) for candidate in (other, path)]
        if order[1] < order[0]:
            paths[subset, name] = path
        elif other != path and order[0] == order[1]:
            faults.append(f"{path}: '{other}' is the same utterance; remove one, or name a --root with one of them")
    missing = [subset for subset in SUBSETS if not any(subset == there for there, _ in paths)]
    return paths, faults + [f"{root}: no recordings in a folder {subset} below it" for subset in missing]


def read_genders(root: Path) -> tuple[dict[str, str], list[str]]:
    """The gender (f, m) of each speaker in files `*spkrinfo.txt` below the root, and what is wrong with their lines.

    A line is `011  F  …`; `;` begins a comment, and a line of dashes parts sections.
    """
    genders: dict[str, str] = {}
    faults = []
    for table in sorted(path for path in root.rglob("[!.]*") if path.name.lower().endswith("spkrinfo.txt")):
        for number, line in enumerate(table.read_text(encoding="latin-1").splitlines(), 1):
            speaker, gender = (line.lower().split() + ["", ""])[:2]
            if line.startswith(";") or "--" in line or not re.fullmatch(r"[0-9a-z]{3}", speaker):
                continue
            if gender not in ("f", "m"):
                faults.append(f"{table}:{number}: '<speaker> F or M …' expected, got {line.strip()!r}")
            elif genders.setdefault(speaker, gender) != gender:
                faults.append(f"{table}:{number}: speaker {speaker} is {gender} here and {genders[speaker]} elsewhere")
    return genders, faults


def _split(subset_of: dict[str, str], dev_share: float, seed: int) -> dict[str, str]:
    """The set of each speaker: dev are those of si_tr_s whose hashes come first."""
    split_of = {speaker: SUBSETS[subset] for speaker, subset in subset_of.items()}
    train = sorted(
        (speaker for speaker in split_of if split_of[speaker] == "train"),
        key=lambda speaker: seed_of(seed, "split", speaker),
    )
    return split_of | dict.fromkeys(train[: max(1, round(dev_share * len(train)))], "dev")


# ----------------------------------------------------------------------------------------------------------- sphere


def sphere_coding(path: Path) -> str:
    """`sample_coding` of a NIST SPHERE file's header, as `pcm` or `pcm,embedded-shorten-v2.00`; pcm if it is not told.

    Raises:
        ValueError: not a SPHERE file.
    """
    with open(path, "rb") as file:
        head = file.read(SPHERE_HEADER)
    if not head.startswith(b"NIST_1A\n"):
        raise ValueError(f"{path}: not a NIST SPHERE file; copy it from the disc again")
    match = re.search(rb"^sample_coding -s\d+ ([^\n]+)$", head.partition(b"end_head")[0], re.MULTILINE)
    return match[1].decode("latin-1").strip() if match else "pcm"


def unpack(paths: Files, converted: Path | None, nj: int) -> tuple[Files, list[str]]:
    """The files that can be read as they are, and unpacked copies of the others below `converted`; faults."""
    faults = []
    packed: Files = {}
    for key, path in paths.items():
        if path.suffix.lower() == ".wv1":
            try:
                if "shorten" in sphere_coding(path):
                    packed[key] = path
            except ValueError:
                pass  # make_sets will say what is wrong with it
    if not packed:
        return paths, []
    lack = "--converted DIR for unpacked copies"
    copies: Files = {}
    if converted is not None:
        copies = {key: converted / key[0] / key[1][:3] / f"{key[1]}.flac" for key in packed}
        to_do = [(packed[key], copies[key]) for key in packed if not copies[key].exists()]
        program = shutil.which("sph2pipe")
        lack = "the program sph2pipe on PATH" if to_do and program is None else ""
        if to_do and program is not None:
            faults = [
                fault for fault in parallel_map(partial(_convert, program=program), to_do, nj, "unpacking") if fault
            ]
    if lack:
        path = next(iter(packed.values()))
        faults = [
            f"{path}: packed by shorten, as {len(packed)} files are, and {lack} is missing; sph2pipe is LDC's, "
            "https://github.com/burrmill/sph2pipe has it"
        ]
    unpacked = {key: copy for key, copy in copies.items() if copy.exists()}
    return {key: unpacked.get(key, path) for key, path in paths.items() if key in unpacked or key not in packed}, faults


def _convert(job: tuple[Path, Path], program: str) -> str:
    """Unpack one file to flac; why it cannot be, or ""."""
    source, target = job
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "unpacked.wav"
        command = [program, "-f", "wav", str(source.absolute()), str(wave)]
        result = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
        if result.returncode or not wave.exists():
            reason = result.stderr.decode(errors="replace").strip().splitlines()[-1:] or [
                f"exit code {result.returncode}"
            ]
            return f"{source}: sph2pipe: {reason[0]}"
        try:
            audio.write(target, *audio.read(wave))
        except ValueError as error:
            return f"{source}: {error}"
    return ""
