"""Speech corpora, as tiny fakes with their true layouts and names: speakers, genders, splits, faults told at once."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tse_lib import audio
from tse_lib.bin.main import main
from tse_lib.bin.validate import check_set
from tse_lib.corpora import dns_speech, ears, librispeech, vctk, wsj0
from tse_lib.corpora.sets import SETS
from tse_lib.corpora.speakers import hifi_tse_split
from tse_lib.manifest import read_data_dir, read_genders
from tse_lib.rng import rng

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def wave(name: str, seconds: float, sample_rate: int) -> np.ndarray:
    return 0.1 * rng(0, name).standard_normal(round(seconds * sample_rate)).astype(np.float32)


def write(path: Path, sample_rate: int, seconds: float = 1.1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave(path.name, seconds, sample_rate), sample_rate, subtype="PCM_16")


def speakers(out: Path) -> dict[str, list[str]]:
    """The speakers of each set that is there; every set validates, and no two share a speaker."""
    found = {}
    for name in SETS:
        if (out / name / "wav.scp").exists():
            assert check_set(out / name)[0] == []
            found[name] = sorted({utt.spk_id for utt in read_data_dir(out / name)})
    everybody = [speaker for names in found.values() for speaker in names]
    assert len(set(everybody)) == len(everybody)
    return found


def ids(folder: Path) -> list[str]:
    return [utt.utt_id for utt in read_data_dir(folder)]


def faults_of(prepare, *arguments, **options) -> str:
    with pytest.raises(ValueError) as caught:
        prepare(*arguments, nj=1, **options)
    return str(caught.value)


# -------------------------------------------------------------------------------------------------------- librispeech

READERS = {  # reader: (gender, part)
    "14": ("F", "train-clean-100"),
    "60": ("M", "train-clean-100"),
    "84": ("F", "dev-clean"),
    "61": ("M", "test-clean"),
    "116": ("M", "dev-other"),
}


def make_librispeech(root: Path) -> Path:
    top = root / "LibriSpeech"
    for reader, (_, part) in READERS.items():
        if part != "dev-other":
            chapter = f"{reader}-208"
            for number in range(2):
                write(top / part / reader / "208" / f"{chapter}-{number:04d}.flac", 16000)
            lines = "".join(f"{chapter}-{number:04d} SOME WORDS\n" for number in range(2))
            (top / part / reader / "208" / f"{chapter}.trans.txt").write_text(lines)
    names = {"60": "|CBW|Simon"}
    lines = [
        f"{reader:<4} | {gender} | {part:<16} | 25.03 | {names.get(reader, 'A Name')}\n"
        for reader, (gender, part) in READERS.items()
    ]
    (top / "SPEAKERS.TXT").write_text(";ID  |SEX| SUBSET           |MINUTES| NAME\n" + "".join(lines))
    return top


@pytest.mark.parametrize("below", ["", "LibriSpeech"])
def test_librispeech(tmp_path, below):
    make_librispeech(tmp_path)
    librispeech.prepare(tmp_path / below, tmp_path / "data", nj=1)
    assert speakers(tmp_path / "data") == {"train": ["14", "60"], "dev": ["84"], "test": ["61"]}
    assert ids(tmp_path / "data" / "train") == ["14-208-0000", "14-208-0001", "60-208-0000", "60-208-0001"]
    assert read_genders(tmp_path / "data" / "train") == {"14": "f", "60": "m"}
    assert {utt.sample_rate for utt in read_data_dir(tmp_path / "data" / "test")} == {16000}


def test_librispeech_traps_are_told_together(tmp_path, capsys):
    top = make_librispeech(tmp_path)
    with open(top / "SPEAKERS.TXT", "a") as file:
        file.write("77 | X | train-clean-100 | 25 | Nobody\n14 | F | train-clean-100 | 25 | Again\n")
        file.write("78 | M | train-clean-100 | 25 | Absent\n")
    write(top / "train-clean-100" / "99" / "1" / "99-1-0000.flac", 16000)
    write(top / "train-clean-100" / "14" / "208" / "14-209-0000.flac", 16000)
    write(top / "train-clean-100" / "60" / "208" / "60-208-0001.flac", 8000)
    write(top / "train-clean-100" / "60" / "208" / "60-208-0007.flac", 16000)
    (top / "dev-clean" / "84" / "208" / "84-208-0000.flac").unlink()
    (top / "test-clean" / "61" / "5").mkdir()
    (top / "test-clean" / "61" / "5" / "61-5.trans.txt").write_text("61-5-0000 SOME WORDS\n")
    parts = ["train-clean-100", "dev-clean", "test-clean", "dev-other"]
    told = faults_of(librispeech.prepare, tmp_path, tmp_path / "data", parts=parts)
    for fault in (
        f"{top}/SPEAKERS.TXT:7: '<reader> | F or M | <part> | …' expected, got '77 | X | train-clean-100",
        f"{top}/SPEAKERS.TXT:8: reader 14 has a line already",
        "SPEAKERS.TXT: 1 speakers have an entry and no recordings (78)",
        "SPEAKERS.TXT: speaker 99 has recordings and no entry",
        "14/208/14-209-0000.flac: <reader>/<chapter>/<reader>-<chapter>-<number>.flac is expected",
        "60-208-0001.flac: 8000 Hz, this corpus has 16000 Hz",
        "60-208-0007.flac: 60-208.trans.txt does not have it",
        "84-208-0000.flac: missing; 84-208.trans.txt has it",
        "61-5-0000.flac: missing; 61-5.trans.txt has it",
        f"{top}/dev-other: no such folder; tse download librispeech --parts dev-other fetches it",
    ):
        assert fault in told
    assert told.startswith("10 files cannot be used")
    assert not (tmp_path / "data").exists()
    librispeech.prepare(tmp_path, tmp_path / "data", parts=parts, skip_bad=True, nj=1)
    assert ids(tmp_path / "data" / "train") == ["14-208-0000", "14-208-0001", "60-208-0000", "60-208-0007"]
    assert speakers(tmp_path / "data") == {"train": ["14", "60"], "test": ["61"]}  # 84 has one utterance left


def test_a_reader_in_two_parts_is_refused(tmp_path):
    top = make_librispeech(tmp_path)
    shutil.copytree(top / "dev-clean" / "84", top / "test-clean" / "84")
    told = faults_of(librispeech.prepare, tmp_path, tmp_path / "data")
    assert "SPEAKERS.TXT: speaker 84 has recordings and no entry" in told


def test_a_folder_without_the_corpus_names_what_is_missing(tmp_path):
    for corpus, missing in ((librispeech, "SPEAKERS.TXT"), (vctk, "speaker-info.txt"), (dns_speech, "read_speech")):
        with pytest.raises(FileNotFoundError, match=f"--root {tmp_path}: no '{missing}' in {tmp_path} or {tmp_path}/"):
            corpus.prepare(tmp_path, tmp_path / "data", nj=1)
    with pytest.raises(FileNotFoundError, match="--root .*nowhere: no such folder"):
        wsj0.prepare(tmp_path / "nowhere", tmp_path / "data", nj=1)


@pytest.mark.corpus
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real recordings are not at {SHARED}")
def test_real_librispeech(tmp_path):
    """Its test part in the layout of the corpus, and its own SPEAKERS.TXT, which lacks the minutes."""
    source, top = SHARED / "librispeech_mini", tmp_path / "LibriSpeech"
    for path in (source / "test-other").rglob("*.flac"):
        reader, chapter, _ = path.stem.split("-")
        (top / "test-other" / reader / chapter).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, top / "test-other" / reader / chapter)
    shutil.copy(source / "SPEAKERS.TXT", top)
    librispeech.prepare(tmp_path, tmp_path / "data", parts=["test-other"], nj=1)
    assert len(speakers(tmp_path / "data")["test"]) == 10
    assert len(ids(tmp_path / "data" / "test")) == 100
    assert len(librispeech.read_readers(source / "SPEAKERS.TXT")[0]) == 261


# --------------------------------------------------------------------------------------------------------------- vctk

SPEAKER_INFO = """ID  AGE  GENDER  ACCENTS  REGION COMMENTS
p225  23  F    English    Southern  England
p226  22  M    English    Surrey
p248  23  F    Indian
p280  25  F    Unknown    France (mic2 files unavailable)
p315  18  M    American   New  England (Text and mic2 files unavailable)
p362  29  F    American
s5    F    English
"""


def make_vctk(root: Path) -> Path:
    """Version 0.92."""
    root.mkdir(parents=True)
    (root / "speaker-info.txt").write_text(SPEAKER_INFO)
    for speaker in ("p225", "p226", "p248", "p280", "p315", "p362", "s5"):
        for number in (1, 2):
            for mic in (1, 2) if speaker not in ("p280", "p315") else (1,):
                write(root / "wav48_silence_trimmed" / speaker / f"{speaker}_{number:03d}_mic{mic}.flac", 48000)
        if speaker != "p315":
            (root / "txt" / speaker).mkdir(parents=True)
            (root / "txt" / speaker / f"{speaker}_001.txt").write_text("Please call Stella.\n")
    return root


@pytest.mark.parametrize("mic", [1, 2])
def test_vctk(tmp_path, mic):
    make_vctk(tmp_path / "VCTK-Corpus-0.92")
    vctk.prepare(tmp_path, tmp_path / "data", mic=mic, shares=(0.6, 0.2, 0.2), nj=1)
    found = speakers(tmp_path / "data")
    everybody = ["p225", "p226", "p248", "p280", "p315", "p362", "s5"]
    assert sorted(sum(found.values(), [])) == [name for name in everybody if mic == 1 or name not in ("p280", "p315")]
    assert len(found["dev"]) == len(found["test"]) == 1
    genders = {name: gender for name in found for name, gender in read_genders(tmp_path / "data" / name).items()}
    assert genders["p226"] == "m" and genders["p225"] == genders["p362"] == genders["s5"] == "f"
    assert genders.get("p315", "m") == "m"
    utts = [utt for name in found for utt in read_data_dir(tmp_path / "data" / name)]
    assert {utt.utt_id for utt in utts if utt.spk_id == "p225"} == {f"p225-001_mic{mic}", f"p225-002_mic{mic}"}
    assert {utt.sample_rate for utt in utts} == {48000}


def test_vctk_080(tmp_path):
    (tmp_path / "speaker-info.txt").write_text(
        "ID  AGE  GENDER  ACCENTS  REGION\n225  23  F    English  Southern England\n"
    )
    for speaker in ("p225", "p280"):  # p280 has no line in this version
        for number in (1, 2):
            write(tmp_path / "wav48" / speaker / f"{speaker}_{number:03d}.wav", 48000)
    vctk.prepare(tmp_path, tmp_path / "data", shares=(0.5, 0.5, 0), nj=1)
    assert sorted(sum(speakers(tmp_path / "data").values(), [])) == ["p225", "p280"]
    assert "p225-001" in ids(tmp_path / "data" / "train") + ids(tmp_path / "data" / "dev")


def test_vctk_as_hifi_tse(tmp_path, capsys):
    make_vctk(tmp_path / "corpus")
    for speaker in ("p225", "p226", "p248"):
        for number in (3, 4):
            write(
                tmp_path / "corpus" / "wav48_silence_trimmed" / speaker / f"{speaker}_{number:03d}_mic1.flac", 48000, 4
            )
    vctk.prepare(tmp_path / "corpus", tmp_path / "data", hifi_tse=True, nj=1)
    assert speakers(tmp_path / "data") == {"train": ["p225", "p226"], "dev": ["p248"]}
    assert ids(tmp_path / "data" / "dev") == ["p248-003_mic1", "p248-004_mic1"]
    assert "left out, 14 files shorter than 4 s" in capsys.readouterr().out


def test_the_split_of_hifi_tse_has_its_published_counts():
    for count, dev in ((1851, 92), (102, 5), (104, 5), (3, 1)):
        split = hifi_tse_split([f"p{number:04d}" for number in range(count)])
        assert sorted(split)[-dev:] == [name for name in sorted(split) if split[name] == "dev"]
        assert len(split) == count


def test_vctk_traps_are_told_together(tmp_path):
    root = make_vctk(tmp_path / "corpus")
    with open(root / "speaker-info.txt", "a") as file:
        file.write("p999  30  F  English  Nowhere\np400  30  English\np225  23  F  English\n")
    folder = root / "wav48_silence_trimmed"
    write(folder / "p500" / "p500_001_mic1.flac", 48000)
    write(folder / "p225" / "p226_003_mic1.flac", 48000)
    write(folder / "p225" / "p225_003.wav", 48000)
    write(folder / "p226" / "p226_001_mic2.flac", 16000)
    (folder / "p362" / "p362_001_mic2.flac").write_bytes(b"")
    for number in (1, 2):
        (folder / "s5" / f"s5_{number:03d}_mic2.flac").unlink()
    told = faults_of(vctk.prepare, root, tmp_path / "data", mic=2)
    for fault in (
        f"{root}/speaker-info.txt:10: '<speaker> <age> F or M …' expected, got 'p400  30  English'",
        f"{root}/speaker-info.txt:11: speaker p225 has a line already",
        "speaker-info.txt: speaker p500 has recordings and no entry",
        "speaker-info.txt: 1 speakers have an entry and no recordings (p999)",
        "p225/p226_003_mic1.flac: not of this layout, which is",
        "p225/p225_003.wav: not of this layout",
        "p226_001_mic2.flac: 16000 Hz, this corpus has 48000 Hz",
        "p362_001_mic2.flac: empty file",
        "s5: no recording of microphone 2",
    ):
        assert fault in told
    assert told.startswith("9 files cannot be used")


# --------------------------------------------------------------------------------------------------------------- ears

GENDERS = {"p001": "male", "p002": "female", "p096": "non-binary / third gender", "p100": "female", "p102": "male"}
STYLES = ("emo_adoration_sentences", "freeform_speech_01", "rainbow_01_whisper", "sentences_01_loud")
SOUNDS = ("interjection_yes", "melodic_humming", "nonverbal_laugh", "vegetative_cough")


def make_ears(root: Path) -> Path:
    top = root / "EARS"
    for speaker in GENDERS:
        for style in STYLES[:2] if speaker != "p001" else (*STYLES, *SOUNDS):
            write(top / speaker / f"{style}.wav", 48000)
    table = {speaker: {"age": "36-45", "gender": gender} for speaker, gender in GENDERS.items()}
    (top / "speaker_statistics.json").write_text(json.dumps(table, indent=4))
    return top


def test_ears(tmp_path):
    make_ears(tmp_path)
    ears.prepare(tmp_path, tmp_path / "data", nj=1)
    assert speakers(tmp_path / "data") == {"train": ["p001", "p002", "p096"], "dev": ["p100"], "test": ["p102"]}
    assert read_genders(tmp_path / "data" / "train") == {"p001": "m", "p002": "f"}
    assert [name for name in ids(tmp_path / "data" / "train") if "p001" in name] == [f"p001-{name}" for name in STYLES]
    assert {utt.sample_rate for utt in read_data_dir(tmp_path / "data" / "dev")} == {48000}
    assert (ears.DEV, ears.TEST) == (["p100", "p101"], ["p102", "p103", "p104", "p105", "p106", "p107"])


def test_ears_styles_can_be_chosen(tmp_path):
    top = make_ears(tmp_path)
    ears.prepare(top, tmp_path / "data", styles=["sentences", "melodic"], nj=1)
    assert speakers(tmp_path / "data") == {"train": ["p001"]}
    assert ids(tmp_path / "data" / "train") == ["p001-melodic_humming", "p001-sentences_01_loud"]


def test_ears_traps_are_told_together(tmp_path):
    top = make_ears(tmp_path)
    table = json.loads((top / "speaker_statistics.json").read_text())
    table |= {"p050": {"gender": "male"}, "p051": {"age": "18-25"}, "q001": {"gender": "male"}}
    del table["p102"]
    (top / "speaker_statistics.json").write_text(json.dumps(table))
    write(top / "p002" / "unheard_of.wav", 48000)
    write(top / "p108" / "rainbow_01_fast.wav", 48000)
    write(top / "p002" / "rainbow_01_fast.wav", 44100)
    audio.write(top / "p002" / "rainbow_01_slow.wav", np.zeros(60000, np.float32), 48000)
    told = faults_of(ears.prepare, tmp_path, tmp_path / "data")
    for fault in (
        "speaker_statistics.json: 1 speakers have an entry and no recordings (p050)",
        "speaker_statistics.json: 'p051': p001 to p107 and a gender are expected, got {'age': '18-25'}",
        "speaker_statistics.json: 'q001': p001 to p107",
        "speaker_statistics.json: speaker p102 has recordings and no entry",
        f"{top}/p002/unheard_of.wav: {top}/<p001 to p107>/<style>_….wav is expected",
        f"{top}/p108/rainbow_01_fast.wav: {top}/<p001 to p107>",
        "rainbow_01_fast.wav: 44100 Hz, this corpus has 48000 Hz",
        "rainbow_01_slow.wav: silent",
    ):
        assert fault in told
    assert told.startswith("8 files cannot be used")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "speaker_statistics.json:1: not JSON"),
        (b"[]", "speaker_statistics.json: speakers by their names are expected, got a list"),
        (b'{"p001": "\xe9"}', "speaker_statistics.json: not UTF-8 text"),
    ],
)
def test_a_broken_table_is_named(tmp_path, content, message):
    top = make_ears(tmp_path)
    (top / "speaker_statistics.json").write_bytes(content)
    assert message in faults_of(ears.prepare, tmp_path, tmp_path / "data")


# ---------------------------------------------------------------------------------------------------------- dns speech


def make_dns_speech(root: Path, readers: int = 5) -> Path:
    top = root / "datasets_fullband" / "clean_fullband" / "read_speech"
    for reader in range(readers):
        for number in range(2):
            write(top / f"book_0000{reader}_chp_0009_reader_0670{reader}_{number}_seg_1.wav", 48000)
    return top


def test_dns_speech(tmp_path, capsys):
    top = make_dns_speech(tmp_path)
    shutil.copytree(top, top / "read_speech")  # as some copies of the corpus have it
    for root in (tmp_path, top):
        dns_speech.prepare(root, tmp_path / "data", shares=(0.6, 0.2, 0.2), nj=1)
        found = speakers(tmp_path / "data")
        assert sorted(sum(found.values(), [])) == [f"reader_0670{reader}" for reader in range(5)]
        assert {name: len(names) for name, names in found.items()} == {"train": 3, "dev": 1, "test": 1}
        assert "left out, 10 second copies of files" in capsys.readouterr().out
    dns_speech.prepare(tmp_path, tmp_path / "hifi", hifi_tse=True, nj=1)
    assert speakers(tmp_path / "hifi")["dev"] == ["reader_06704"]
    assert ids(tmp_path / "hifi" / "dev") == [
        f"reader_06704-book_00004_chp_0009_reader_06704_{number}_seg_1" for number in range(2)
    ]
    assert not (tmp_path / "hifi" / "test").exists()


def test_dns_speech_traps_are_told_together(tmp_path):
    top = make_dns_speech(tmp_path)
    write(top / "book_00001_chp_0009_0_seg_1.wav", 48000)
    write(top / "book_00001_chp_0009_reader_06701_5_seg_1.wav", 16000)
    (top / "book_00001_chp_0009_reader_06701_6_seg_1.wav").write_bytes(
        (top / "book_00001_chp_0009_reader_06701_0_seg_1.wav").read_bytes()[:9000]
    )
    told = faults_of(dns_speech.prepare, tmp_path, tmp_path / "data")
    assert told.startswith("3 files cannot be used")
    for fault in (
        "book_00001_chp_0009_0_seg_1.wav: book_<number>_chp_",
        "16000 Hz, this corpus",
        "6_seg_1.wav: truncated",
    ):
        assert fault in told


def test_the_archives_of_the_dns_challenge_are_named_as_it_names_them():
    names = [archive.name for archive in dns_speech.ARCHIVES.values()]
    start = "datasets_fullband.clean_fullband.read_speech"
    assert len(names) == 40
    assert names[0] == f"{start}_000_0.00_3.75.tar.bz2"
    assert names[10] == f"{start}_010_4.21_4.24.tar.bz2"
    assert names[24:26] == [f"{start}_024_4.67_NA.tar.bz2", f"{start}_025_NA_NA.tar.bz2"]
    assert names[39] == f"{start}_039_NA_NA.tar.bz2"


# --------------------------------------------------------------------------------------------------------------- wsj0

WSJ0 = {
    "11-1.1/wsj0/si_tr_s": ("011", "01a", "022"),
    "11-6.1/wsj0/si_dt_05": ("050",),
    "11-14.1/wsj0/si_et_05": ("440",),
}


def write_sphere(path: Path, shorten: bool = False) -> None:
    """A NIST SPHERE file of 16 bits; with `shorten`, the header alone says that it is packed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = (wave(path.name, 1.1, 16000) * 32767).astype("<i2")
    coding = "sample_coding -s26 pcm,embedded-shorten-v2.00\n" if shorten else "sample_coding -s3 pcm\n"
    head = f"NIST_1A\n   1024\nchannel_count -i 1\nsample_count -i {len(samples)}\nsample_rate -i 16000\n"
    head += f"sample_n_bytes -i 2\nsample_byte_format -s2 01\nsample_sig_bits -i 16\n{coding}end_head\n"
    path.write_bytes(head.encode().ljust(1024) + (b"ajkg\2" if shorten else samples.tobytes()))


def make_wsj0(root: Path, shorten: bool = False) -> Path:
    for folder, names in WSJ0.items():
        for speaker in names:
            for number in (1, 2):
                write_sphere(root / folder / speaker / f"{speaker}c020{number}.wv1", shorten)
                write_sphere(root / folder / speaker / f"{speaker}c020{number}.wv2", shorten)
    (root / "11-13.1" / "wsj0" / "doc").mkdir(parents=True)
    (root / "11-13.1" / "wsj0" / "doc" / "spkrinfo.txt").write_text("; speakers\n\n050   F   x\n--- ---\n440   M   y\n")
    (root / "wsj0-train-spkrinfo.txt").write_text("; ID\n011   F    a     b\n01A   M    a     b\n")
    return root


def test_wsj0(tmp_path, capsys):
    make_wsj0(tmp_path / "discs")
    wsj0.prepare(tmp_path / "discs", tmp_path / "data", nj=1)
    found = speakers(tmp_path / "data")
    assert found["test"] == ["050", "440"]
    assert sorted(found["train"] + found["dev"]) == ["011", "01a", "022"] and len(found["dev"]) == 1
    assert ids(tmp_path / "data" / "test") == ["050-c0201", "050-c0202", "440-c0201", "440-c0202"]
    assert read_genders(tmp_path / "data" / "test") == {"050": "f", "440": "m"}
    assert "the gender of 1 speakers is not known (022)" in capsys.readouterr().out
    drawn = set()
    for seed in range(8):
        wsj0.prepare(tmp_path / "discs", tmp_path / "again", seed=seed, dev_share=0.5, nj=1)
        again = speakers(tmp_path / "again")
        assert again["test"] == found["test"] and len(again["dev"]) == 2
        drawn.add(tuple(again["dev"]))
    assert len(drawn) > 1


def test_wsj0_converted_before(tmp_path):
    for folder, names in WSJ0.items():
        for speaker in names:
            for number in (1, 2):
                extension = ".wav" if number == 1 else ".flac"
                write(tmp_path / "wsj0" / Path(folder).name / speaker / f"{speaker}c020{number}{extension}", 16000)
    write_sphere(tmp_path / "a_disc" / "si_et_05" / "440" / "440c0201.wv1", shorten=True)  # the .wav of it is taken
    wsj0.prepare(tmp_path, tmp_path / "data", nj=1)
    assert len(ids(tmp_path / "data" / "test")) == 4


@pytest.fixture
def sph2pipe(tmp_path, monkeypatch):
    """A program of this name that writes a wav of its own, and a list of what it was called with."""
    folder = tmp_path / "bin"
    write(folder / "unpacked.wav", 16000)
    script = (
        f'#!/bin/sh\necho "$@" >> {folder}/calls\n[ "$3" != "${{3%440c0202.wv1}}" ] && {{ echo bad >&2; exit 1; }}\n'
    )
    (folder / "sph2pipe").write_text(script + f'cp {folder}/unpacked.wav "$4"\n')
    (folder / "sph2pipe").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "calls"


def test_wsj0_packed_files_are_unpacked_once(tmp_path, sph2pipe):
    discs, converted = make_wsj0(tmp_path / "the discs", shorten=True), tmp_path / "the flac"
    told = faults_of(wsj0.prepare, discs, tmp_path / "data", converted=converted)
    assert told.startswith("1 files cannot be used") and "440c0202.wv1: sph2pipe: bad" in told
    (discs / "11-14.1/wsj0/si_et_05/440/440c0202.wv1").rename(discs / "11-14.1/wsj0/si_et_05/440/440c0203.wv1")
    wsj0.prepare(discs, tmp_path / "data", converted=converted, nj=1)
    assert sorted(sum(speakers(tmp_path / "data").values(), [])) == ["011", "01a", "022", "050", "440"]
    assert len(sph2pipe.read_text().splitlines()) == 11
    assert len(list(converted.rglob("*.flac"))) == 10
    first = read_data_dir(tmp_path / "data" / "test")[0]
    assert first.path == str(converted / "si_dt_05" / "050" / "050c0201.flac")
    np.testing.assert_array_equal(audio.read(first.path)[0], audio.read(sph2pipe.parent / "unpacked.wav")[0])


def test_wsj0_packed_files_without_the_program_name_the_way_out(tmp_path, monkeypatch):
    make_wsj0(tmp_path / "discs", shorten=True)
    told = faults_of(wsj0.prepare, tmp_path / "discs", tmp_path / "data")
    assert told.startswith("1 files cannot be used")
    assert "packed by shorten, as 10 files are, and --converted DIR for unpacked copies is missing" in told
    monkeypatch.setenv("PATH", str(tmp_path))
    told = faults_of(wsj0.prepare, tmp_path / "discs", tmp_path / "data", converted=tmp_path / "flac")
    assert "the program sph2pipe on PATH is missing; sph2pipe is LDC's, https://github.com/" in told


def test_wsj0_traps_are_told_together(tmp_path):
    discs = make_wsj0(tmp_path / "discs")
    train = discs / "11-1.1" / "wsj0" / "si_tr_s"
    shutil.copytree(train / "011", discs / "11-2.1" / "wsj0" / "si_tr_s" / "011")
    write_sphere(train / "022" / "011c0203.wv1")
    write_sphere(train / "022" / "022c02031.wv1")
    (train / "022" / "022c0204.wv1").write_bytes(b"no header")
    shutil.rmtree(discs / "11-6.1")
    with open(discs / "wsj0-train-spkrinfo.txt", "a") as file:
        file.write("022   ?   a\n050   M   a\n")
    told = faults_of(wsj0.prepare, discs, tmp_path / "data")
    for fault in (
        "11-2.1/wsj0/si_tr_s/011/011c0201.wv1: '",
        "011c0201.wv1' is the same utterance; remove one",
        "022/011c0203.wv1: si_tr_s/<speaker>/<speaker><5 characters> is expected",
        "022/022c02031.wv1: si_tr_s/<speaker>",
        "022c0204.wv1: not an audio file",
        "wsj0-train-spkrinfo.txt:4: '<speaker> F or M …' expected, got '022   ?   a'",
        "wsj0-train-spkrinfo.txt:5: speaker 050 is m here and f elsewhere",
        f"{discs}: no recordings in a folder si_dt_05 below it",
    ):
        assert fault in told
    assert told.startswith("8 files cannot be used")


# ------------------------------------------------------------------------------------------------------- command line


def test_the_command_line_reaches_every_option(tmp_path, capsys):
    make_librispeech(tmp_path / "l")
    make_vctk(tmp_path / "v")
    make_ears(tmp_path / "e")
    make_dns_speech(tmp_path / "d")
    make_wsj0(tmp_path / "w")
    common = ["--nj", "1", "--out", str(tmp_path / "data")]
    for words in (
        ["librispeech", "--root", tmp_path / "l", "--parts", "dev-clean", "--prefix", "l_"],
        ["vctk", "--root", tmp_path / "v", "--mic", "1", "--split", "0.8", "0.2", "0", "--seed", "3", "--prefix", "v_"],
        ["ears", "--root", tmp_path / "e", "--styles", "emo", "freeform", "--skip_bad", "--prefix", "e_"],
        ["dns_speech", "--root", tmp_path / "d", "--hifi_tse", "--min_s", "0.5", "--prefix", "d_"],
        ["wsj0", "--root", tmp_path / "w", "--dev_share", "0.4", "--seed", "1", "--prefix", "w_"],
    ):
        assert main(["prepare", *map(str, words), *common]) == 0
    made = {path.name for path in (tmp_path / "data").iterdir()}
    assert made == {
        "l_dev",
        "v_train",
        "v_dev",
        "e_train",
        "e_dev",
        "e_test",
        "d_train",
        "d_dev",
        "w_train",
        "w_dev",
        "w_test",
    }
    assert main(["prepare", "wsj0", "--root", str(tmp_path / "w"), "--dev_share", "1", *common]) == 4
    assert "--dev_share 1: between 0 and 1" in capsys.readouterr().err
    assert main(["download", "wsj0", "--root", str(tmp_path)]) == 4
    assert "catalog.ldc.upenn.edu/LDC93S6A" in capsys.readouterr().err
