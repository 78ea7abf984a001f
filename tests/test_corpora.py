"""Corpora become data sets: the same ones every time, and what is wrong with a corpus is said in one go."""

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tse_lib import audio
from tse_lib.bin.prepare import main as prepare_main
from tse_lib.bin.validate import check_set
from tse_lib.corpora import CORPORA, espeak, folder, mini, sentences, stems
from tse_lib.corpora.noises import NOISES
from tse_lib.corpora.sets import SETS, report_faults
from tse_lib.manifest import Utterance, read_data_dir, read_genders, read_stems
from tse_lib.parallel import parallel_map
from tse_lib.rng import rng

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def write_wave(path: Path, seconds: float = 1.2, sample_rate: int = 8000, channels: int = 1) -> None:
    draws = rng(0, str(path))
    wave = 0.1 * draws.standard_normal((channels, round(seconds * sample_rate))).astype(np.float32)
    audio.write(path, wave if channels > 1 else wave[0], sample_rate)


def write_csv(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_speech(root: Path, speakers: int = 5, utts: int = 2) -> Path:
    for speaker in range(speakers):
        for utt in range(utts):
            write_wave(root / f"spk{speaker}" / "chapter" / f"u{utt}.wav")
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def sets(out: Path, prefix: str = "") -> dict[str, list[Utterance]]:
    names = [f"{prefix}{name}" for name in SETS]
    return {name: read_data_dir(out / name) for name in names if (out / name / "wav.scp").exists()}


# --------------------------------------------------------------------------------------------------- folder: the sets


def test_a_folder_of_speakers_becomes_disjoint_sets_that_validate(tmp_path):
    root = make_speech(tmp_path / "corpus", speakers=10)
    folders = folder.prepare(root, tmp_path / "data", nj=1)
    assert [path.name for path in folders] == ["train", "dev", "test"]
    made = sets(tmp_path / "data")
    speakers = {name: {utt.spk_id for utt in utts} for name, utts in made.items()}
    assert {name: len(found) for name, found in speakers.items()} == {"train": 8, "dev": 1, "test": 1}
    assert len(set.union(*speakers.values())) == 10
    for path in folders:
        assert check_set(path)[0] == []
    first = made["dev"][0]
    assert first.utt_id == f"{first.spk_id}-chapter-u0"
    assert set(first.activity) == {"1"}


def test_the_sets_depend_on_the_seed_and_on_nothing_else(tmp_path):
    root = make_speech(tmp_path / "corpus", speakers=12)
    for name, options in {"a": {"nj": 1}, "b": {"nj": 2}, "c": {"nj": 1, "seed": 1}}.items():
        folder.prepare(root, tmp_path / name, **options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_any_name_any_rate_and_several_channels(tmp_path, capsys):
    root = tmp_path / "a corpus"
    write_wave(root / "Zoë O'Hara" / "take 1.wav", sample_rate=44100)
    write_wave(root / "Zoë O'Hara" / 'say "hi" \u00fc.flac', channels=2)
    folder.prepare(root, tmp_path / "data", shares=(1, 0, 0), nj=1)
    utts = read_data_dir(tmp_path / "data" / "train")
    assert [utt.utt_id for utt in utts] == ['Zoë_O\'Hara-say_"hi"_ü', "Zoë_O'Hara-take_1"]
    assert [utt.sample_rate for utt in utts] == [8000, 44100]
    assert check_set(tmp_path / "data" / "train")[0] == []
    assert "warning: 1 files have several channels" in capsys.readouterr().out


def test_channels_that_leave_nothing_to_hear_are_a_fault(tmp_path, capsys):
    wave = 0.1 * rng(0, "channels").standard_normal(2000).astype(np.float32)
    for number in range(3):
        audio.write(tmp_path / "rirs" / f"{number}.wav", np.stack([0 * wave, wave]), 8000)
        audio.write(tmp_path / "noise" / f"{number}.wav", np.stack([wave, -wave]), 8000)
    with pytest.raises(ValueError, match="rirs/0.wav \\(first channel\\): silent"):
        folder.prepare(tmp_path / "rirs", tmp_path / "data", kind="rir", nj=1)
    with pytest.raises(ValueError, match="noise/0.wav \\(mean of its channels\\): silent"):
        folder.prepare(tmp_path / "noise", tmp_path / "data", kind="noise", nj=1)
    audio.write(tmp_path / "rirs" / "0.wav", np.stack([wave, 0 * wave]), 8000)
    folder.prepare(tmp_path / "rirs", tmp_path / "data", kind="rir", shares=(1, 0, 0), skip_bad=True, nj=1)
    assert "1 files have several channels; the first is taken" in capsys.readouterr().out


def test_paths_below_the_current_folder_are_relative(tmp_path, monkeypatch):
    make_speech(tmp_path / "here" / "corpus", speakers=1)
    monkeypatch.chdir(tmp_path / "here")
    folder.prepare(Path("corpus"), Path("data"), shares=(1, 0, 0), nj=1)
    folder.prepare(tmp_path / "here" / "corpus", Path("data/again"), shares=(1, 0, 0), nj=1)
    for name in ("data/train", "data/again/train"):
        assert read_data_dir(name)[0].path == "corpus/spk0/chapter/u0.wav"
    monkeypatch.chdir(tmp_path / "here" / "data")
    folder.prepare(tmp_path / "here" / "corpus", Path(), shares=(1, 0, 0), nj=1)
    assert read_data_dir("train")[0].path == str(tmp_path / "here" / "corpus" / "spk0" / "chapter" / "u0.wav")


def test_noise_and_room_responses_have_no_speakers(tmp_path):
    for number in range(5):
        write_wave(tmp_path / "noise" / "kind" / f"n{number}.wav", seconds=0.2)
        write_wave(tmp_path / "rirs" / f"r{number}.wav", seconds=0.01)
    folder.prepare(tmp_path / "noise", tmp_path / "data", prefix="noise_", kind="noise", nj=1)
    folder.prepare(tmp_path / "rirs", tmp_path / "data", prefix="rir_", kind="rir", shares=(0.5, 0, 0.5), nj=1)
    counts = {name: len(utts) for name, utts in sets(tmp_path / "data", "noise_").items()}
    assert counts == {"noise_train": 3, "noise_dev": 1, "noise_test": 1}
    assert sorted(sets(tmp_path / "data", "rir_")) == ["rir_test", "rir_train"]
    utt = read_data_dir(tmp_path / "data" / "noise_dev")[0]
    assert (utt.spk_id, utt.activity) == ("", "")


def test_a_file_that_links_lead_to_is_there_once(tmp_path, capsys):
    root = make_speech(tmp_path / "corpus", speakers=2)
    for name in ("spk0/best.wav", "spk0/chapter/zbest.wav", "all/a.wav", "all/b.wav"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(root / "spk0" / "chapter" / "u1.wav")
    folder.prepare(root, tmp_path / "data", shares=(1, 0, 0), nj=1)
    assert [utt.utt_id for utt in read_data_dir(tmp_path / "data" / "train")] == [
        f"spk{speaker}-chapter-u{utt}" for speaker in (0, 1) for utt in (0, 1)
    ]
    assert "left out, 4 links to files that are there already" in capsys.readouterr().out


def test_what_systems_hide_beside_recordings_is_no_recording(tmp_path):
    root = make_speech(tmp_path / "corpus", speakers=1)
    for name in ("._u0.wav", ".AppleDouble/u0.wav", ".unpack-x.zip/spk1/u0.wav", ".DS_Store"):
        (root / "spk0" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "spk0" / name).write_bytes(b"\0\5\26\7")
    folder.prepare(root, tmp_path / "data", shares=(1, 0, 0), nj=1)
    assert [utt.utt_id for utt in read_data_dir(tmp_path / "data" / "train")] == ["spk0-chapter-u0", "spk0-chapter-u1"]


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    root = make_speech(tmp_path / "corpus", speakers=4)
    scandir = os.scandir

    def locked(folder):
        if str(folder).endswith("spk1"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", locked)  # root may read everything
    with pytest.raises(PermissionError, match="spk1"):
        folder.prepare(root, tmp_path / "data", nj=1)


def test_a_prefix_may_name_a_folder(tmp_path):
    root = make_speech(tmp_path / "corpus", speakers=3)
    folders = folder.prepare(root, tmp_path / "data", prefix="mine/sp_", nj=1)
    assert folders == [tmp_path / "data" / "mine" / f"sp_{name}" for name in SETS]
    assert all(len(read_data_dir(one)) == 2 for one in folders)


def test_links_that_lead_out_of_the_root_are_not_followed(tmp_path, capsys):
    root = make_speech(tmp_path / "corpus", speakers=1)
    write_wave(tmp_path / "elsewhere" / "private.wav")
    (root / "spk0" / "out").symlink_to(tmp_path / "elsewhere")
    (root / "spk0" / "file.wav").symlink_to(tmp_path / "elsewhere" / "private.wav")
    (root / "spk0" / "loop").symlink_to(root)
    folder.prepare(root, tmp_path / "data", shares=(1, 0, 0), nj=1)
    assert [utt.utt_id for utt in read_data_dir(tmp_path / "data" / "train")] == ["spk0-chapter-u0", "spk0-chapter-u1"]
    assert f"links that lead out of {root}: {root}/spk0/file.wav and 1 more" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ folder: metadata and cuts


def test_metadata_gives_speakers_genders_splits_and_filters(tmp_path):
    root = make_speech(tmp_path / "corpus", speakers=4, utts=3)
    rows = [
        {
            "path": f"spk{speaker}/chapter/u{utt}.wav",
            "speaker": f"Speaker {speaker}",
            "gender": "Fm"[speaker % 2],
            "kind": "room, 2-ch" if utt < 2 else "phone",
            "split": "train" if speaker < 2 else "test",
        }
        for speaker in range(4)
        for utt in range(3)
    ]
    write_csv(root / "metadata.csv", rows)
    folder.prepare(root, tmp_path / "data", where=["kind=room*", "path=*.wav"], nj=1)
    made = sets(tmp_path / "data")
    assert {name: sorted({utt.spk_id for utt in utts}) for name, utts in made.items()} == {
        "train": ["Speaker_0", "Speaker_1"],
        "test": ["Speaker_2", "Speaker_3"],
    }
    assert sum(map(len, made.values())) == 8
    assert read_genders(tmp_path / "data" / "train") == {"Speaker_0": "f", "Speaker_1": "m"}

    folder.prepare(root, tmp_path / "drawn", ignore_split=True, shares=(0.5, 0.25, 0.25), nj=1)
    assert {name: len(utts) for name, utts in sets(tmp_path / "drawn").items()} == {"train": 6, "dev": 3, "test": 3}


def test_a_table_of_absolute_paths_and_a_relative_root(tmp_path, monkeypatch):
    root = make_speech(tmp_path / "corpus", speakers=1)
    write_csv(root / "metadata.csv", [{"path": path} for path in root.rglob("*.wav")])
    monkeypatch.chdir(tmp_path)
    folder.prepare(Path("corpus"), Path("data"), shares=(1, 0, 0), nj=1)
    assert [utt.path for utt in read_data_dir("data/train")] == [f"corpus/spk0/chapter/u{n}.wav" for n in (0, 1)]


def test_without_a_speaker_column_the_folder_is_the_speaker(tmp_path):
    root = make_speech(tmp_path / "corpus", speakers=2)
    table = write_csv(tmp_path / "table.csv", [{"path": f"spk1/chapter/u{utt}.wav"} for utt in range(2)])
    folder.prepare(root, tmp_path / "data", metadata=table, shares=(1, 0, 0), nj=1)
    assert {utt.spk_id for utt in read_data_dir(tmp_path / "data" / "train")} == {"spk1"}


def test_a_cut_list_makes_two_utterances_of_a_speakers_only_recording(tmp_path, capsys):
    root = tmp_path / "corpus"
    for path in ("one/u.wav", "uncut/u.wav", "many/u1.wav", "many/u2.wav"):
        write_wave(root / path, seconds=3)
    cuts = [
        {"path": "one/u.wav", "speaker": "one", "split": "train", "role": "enroll", "start": 0, "end": 10001},
        {"path": "one/u.wav", "speaker": "one", "split": "train", "role": "target", "start": 10001, "end": 24000},
        {"path": "many/u1.wav", "speaker": "many", "split": "train", "role": "enroll", "start": 0, "end": 12000},
    ]
    cut_list = write_csv(tmp_path / "cuts.csv", cuts)
    folder.prepare(root, tmp_path / "data", cuts=cut_list, shares=(1, 0, 0), ignore_split=True, nj=1)
    utts = {utt.utt_id: (utt.start, utt.num_samples) for utt in read_data_dir(tmp_path / "data" / "train")}
    assert utts == {
        "many-u1": (0, 24000),
        "many-u2": (0, 24000),
        "one-u-enroll": (0, 10001),
        "one-u-target": (10001, 13999),
    }
    assert check_set(tmp_path / "data" / "train")[0] == []
    assert "left out, 1 speakers with one utterance" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end": 0}, r"cuts.csv: 'one/u.wav': from sample '0' to '0' is no stretch"),
        ({"start": "-5"}, r"cuts.csv: 'one/u.wav': from sample '-5' to '9000' is no stretch"),
        ({"end": 99999}, r"u.wav: samples 0 to 99999 wanted, the file has 9600"),
        ({"speaker": "two"}, r"cuts.csv: 'one/u.wav': speaker two, elsewhere one"),
        ({"path": "one/v.wav"}, r"cuts.csv: none of its paths is among the recordings"),
        ({"path": "../u.wav"}, r"cuts.csv: '../u.wav' leads out of"),
    ],
)
def test_a_faulty_cut_list_is_named(tmp_path, change, message):
    write_wave(tmp_path / "corpus" / "one" / "u.wav")
    row = {"path": "one/u.wav", "speaker": "one", "start": 0, "end": 9000, **change}
    with pytest.raises(ValueError, match=message):
        folder.prepare(tmp_path / "corpus", tmp_path / "data", cuts=write_csv(tmp_path / "cuts.csv", [row]), nj=1)


# ----------------------------------------------------------------------------------------------- folder: what is wrong


def make_faulty(root: Path) -> None:
    make_speech(root, speakers=3)
    (root / "spk0" / "empty.wav").write_bytes(b"")
    (root / "spk0" / "text.wav").write_text("no audio")
    (root / "spk1" / "cut.wav").write_bytes((root / "spk1" / "chapter" / "u0.wav").read_bytes()[:2000])
    audio.write(root / "spk1" / "silent.wav", np.zeros(9000, np.float32), 8000)
    write_wave(root / "spk2" / "short.wav", seconds=0.5)
    write_wave(root / "spk2" / "line\nbreak.wav")


def test_all_faulty_files_are_reported_together_and_nothing_is_written(tmp_path):
    make_faulty(tmp_path / "corpus")
    with pytest.raises(ValueError) as caught:
        folder.prepare(tmp_path / "corpus", tmp_path / "data", nj=1)
    message = str(caught.value)
    assert message.startswith("6 files cannot be used (--skip_bad goes on without them)")
    for reason in (
        "empty.wav: empty file",
        "text.wav: not an audio file",
        "cut.wav: truncated",
        "silent.wav: silent",
        "short.wav: 0.50 s, shorter than --min_s 1",
        "line\\nbreak.wav': a table cannot hold this name",
    ):
        assert reason in message
    assert not (tmp_path / "data").exists()


def test_faulty_files_can_be_left_out(tmp_path, capsys):
    make_faulty(tmp_path / "corpus")
    folder.prepare(tmp_path / "corpus", tmp_path / "data", skip_bad=True, nj=2)
    assert sum(map(len, sets(tmp_path / "data").values())) == 6
    assert "left out, 6 files that cannot be used" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no file is left, all 12 are faulty"):
        folder.prepare(tmp_path / "corpus", tmp_path / "data", skip_bad=True, min_s=60, nj=1)


def test_names_that_are_no_utf8_can_be_told(tmp_path, capfdbinary):
    for speaker in ("a", "b"):
        write_wave(tmp_path / "corpus" / "train" / speaker / "kick.wav")
    os.rename(tmp_path / "corpus/train/b", os.fsencode(tmp_path / "corpus/train") + b"/Zo\xeb")
    with open(1, "w", encoding="utf-8", closefd=False) as out, contextlib.redirect_stdout(out):  # as path.sh has it
        folder.prepare(tmp_path / "corpus", tmp_path / "data", kind="noise", shares=(1, 0, 0), skip_bad=True, nj=1)
        stems.prepare(tmp_path / "corpus", tmp_path / "data", ["kick"], skip_bad=True, nj=1)
        report_faults([str(next(path for path in (tmp_path / "corpus/train").iterdir() if path.name != "a"))], True)
    assert capfdbinary.readouterr().out.count(b"Zo\\udceb") == 3
    assert [track.track_id for track in read_stems(tmp_path / "data" / "train").tracks] == ["a"]


def test_a_long_list_of_faults_ends_with_a_count(tmp_path):
    root = tmp_path / "noise"
    root.mkdir()
    for number in range(25):
        (root / f"{number:02d}.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"25 files cannot be used[\s\S]*19.wav: empty[\s\S]*… and 5 more$"):
        folder.prepare(root, tmp_path / "data", kind="noise", nj=1)


def test_a_failed_run_leaves_the_old_sets_alone(tmp_path):
    root = make_speech(tmp_path / "corpus")
    folder.prepare(root, tmp_path / "data", nj=1)
    before = contents(tmp_path / "data")
    (root / "spk0" / "empty.wav").write_bytes(b"")
    with pytest.raises(ValueError):
        folder.prepare(root, tmp_path / "data", nj=1)
    assert contents(tmp_path / "data") == before


def test_a_set_that_an_earlier_run_left_is_mentioned(tmp_path, capsys):
    root = make_speech(tmp_path / "corpus")
    folder.prepare(root, tmp_path / "data", nj=1)
    folder.prepare(root, tmp_path / "data", shares=(1, 0, 0), nj=1)
    output = capsys.readouterr().out
    assert "data/dev is left as an earlier run made it" in output
    assert "data/test is left as an earlier run made it" in output


def test_speakers_with_one_utterance_are_left_out(tmp_path, capsys):
    root = make_speech(tmp_path / "corpus", speakers=3)
    write_wave(root / "lonely" / "u.wav")
    folder.prepare(root, tmp_path / "data", nj=1)
    assert "left out, 1 speakers with one utterance" in capsys.readouterr().out
    with pytest.raises(ValueError, match="none of 4 speakers has two utterances"):
        folder.prepare(make_speech(tmp_path / "singles", speakers=4, utts=1), tmp_path / "data", nj=1)


def test_ids_that_clash_name_both_files(tmp_path):
    root = make_speech(tmp_path / "files", speakers=1)
    write_wave(root / "spk0" / "a b.wav")
    write_wave(root / "spk0" / "a_b.wav")
    with pytest.raises(ValueError, match=r"a b.wav' and '.*a_b.wav' would both be spk0-a_b; rename one"):
        folder.prepare(root, tmp_path / "data", nj=1)
    write_wave(tmp_path / "speakers" / "Ann Lee" / "1.wav")
    write_wave(tmp_path / "speakers" / "Ann_Lee" / "2.wav")
    with pytest.raises(ValueError, match="speakers 'Ann Lee' and 'Ann_Lee' would both be Ann_Lee"):
        folder.prepare(tmp_path / "speakers", tmp_path / "data", nj=1)


def test_wrong_options_are_named(tmp_path):
    root, out = make_speech(tmp_path / "corpus", speakers=2), tmp_path / "data"
    (tmp_path / "void").mkdir()
    write_wave(tmp_path / "flat" / "u.wav")
    for message, options in {
        "--root .*nowhere: no such folder": {"root": tmp_path / "nowhere"},
        "void: no .wav, .flac, .ogg files": {"root": tmp_path / "void"},
        "u.wav: lies in no speaker's folder": {"root": tmp_path / "flat"},
        "--kind music: one of speech, noise, rir": {"kind": "music"},
        "--split 0.5 0.1 0.1: three shares that add up to 1": {"shares": (0.5, 0.1, 0.1)},
        "2 speakers with two utterances, too few for 3 disjoint sets": {},
        "--where a=b: filters by a metadata table": {"where": ["a=b"]},
        "--cuts c.csv: cuts are utterances of speakers": {"cuts": Path("c.csv"), "kind": "noise"},
        "--nj 0: at least 1": {"nj": 0},
        "m.csv: no such table": {"metadata": tmp_path / "m.csv"},
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            folder.prepare(**{"root": root, "out": out, "nj": 1, **options})
    assert not out.exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"file": "a"}], "metadata.csv: no column 'path'; it has file"),
        ([{"path": "spk0/chapter/u0.wav", "speaker": ""}], "metadata.csv: 'spk0/chapter/u0.wav' has no speaker"),
        ([{"path": "u0.wav"}], "metadata.csv: 'u0.wav' has no speaker"),
        ([{"path": "../u0.wav", "speaker": "a"}], "metadata.csv: '../u0.wav' leads out of"),
        ([{"path": "gone.wav", "speaker": "a"}], "gone.wav: no such audio file"),
        ([{"path": f"{place}spk0/chapter/u0.wav"} for place in ("", "./")], "u0.wav' is there twice"),
        (
            [
                {"path": f"spk0/chapter/u{n}.wav", "speaker": "a", "split": split}
                for n, split in enumerate(("train", ""))
            ],
            "split '' is none of train, dev, test; --ignore_split",
        ),
        (
            [
                {"path": f"spk0/chapter/u{n}.wav", "speaker": "a", "split": split}
                for n, split in enumerate(("train", "dev"))
            ],
            "speaker 'a' is in train and in dev; --ignore_split",
        ),
    ],
)
def test_faulty_metadata_is_named(tmp_path, rows, message):
    root = make_speech(tmp_path / "corpus", speakers=1)
    write_csv(root / "metadata.csv", rows)
    with pytest.raises(ValueError, match=message):
        folder.prepare(root, tmp_path / "data", nj=1)


def test_metadata_in_another_encoding_is_named(tmp_path):
    (tmp_path / "metadata.csv").write_bytes("path,speaker\nZoë.wav,Zoë\n".encode("latin-1"))
    with pytest.raises(ValueError, match="metadata.csv: not UTF-8 text"):
        folder.prepare(tmp_path, tmp_path / "data", nj=1)


def test_a_quotation_mark_that_is_not_closed_is_named(tmp_path):
    rows = "".join(f"{number:0100}.wav,a\n" for number in range(2000))  # csv's longest field is 128 KiB
    (tmp_path / "metadata.csv").write_text(f'path,speaker\n"a.wav,a\n{rows}')
    with pytest.raises(ValueError, match="metadata.csv: line .*; is a quotation mark not closed"):
        folder.prepare(tmp_path, tmp_path / "data", nj=1)


@pytest.mark.corpus
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real recordings are not at {SHARED}")
def test_real_recordings(tmp_path):
    speech = SHARED / "librispeech_mini"
    folder.prepare(speech, tmp_path, cuts=speech / "segments_single_utt.csv", nj=2)
    counts = {name: (len({utt.spk_id for utt in utts}), len(utts)) for name, utts in sets(tmp_path).items()}
    assert counts == {"train": (180, 360), "dev": (27, 54), "test": (10, 100)}
    folder.prepare(SHARED / "rir", tmp_path, prefix="rir_", kind="rir", where=["kind=room*"], nj=1)
    assert len(read_data_dir(tmp_path / "rir_train")) == 16
    for name in (*SETS, "rir_train"):
        assert check_set(tmp_path / name)[0] == []


# --------------------------------------------------------------------------------------------------------------- mini


def needs_espeak() -> None:
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is not installed (pip install -e .[mini])")


SMALL = {"num_talkers": (3, 3, 3), "num_utts": 2, "num_clips": (1, 1, 1)}


def test_the_plan_makes_different_talkers_and_sentences():
    used: set[str] = set()
    talkers = {
        split: mini.plan(split, 0, count, mini.NUM_UTTS, used)
        for split, count in zip(mini.SETS, mini.NUM_TALKERS, strict=True)
    }
    everybody = [talker for split in mini.SETS for talker in talkers[split]]
    assert len({talker.spk_id for talker in everybody}) == len(everybody) == 148
    texts = [text for talker in everybody for text in talker.texts]
    assert len(set(texts)) == len(texts) == 148 * mini.NUM_UTTS
    variants = {split: {talker.voice.name.split("+")[1] for talker in talkers[split]} for split in mini.SETS}
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not variants[one] & variants[other]
    for talker in everybody:
        for other in everybody:
            same_variant = talker.voice.name.split("+")[1] == other.voice.name.split("+")[1]
            if talker is not other and same_variant:
                assert abs(pitch_semitones(talker) - pitch_semitones(other)) > 0.6
    assert talkers["dev"] == mini.plan("dev", 0, 12, mini.NUM_UTTS, set())
    assert talkers["dev"] != mini.plan("dev", 1, 12, mini.NUM_UTTS, set())


def pitch_semitones(talker: mini.Talker) -> float:
    return (talker.voice.pitch - 50) * mini.SEMITONES_PER_PITCH + 12 * np.log2(talker.tract)


def test_a_sentence_is_new_and_takes_three_to_five_seconds():
    used: set[str] = set()
    made = [sentences.sentence(rng(0, number), 170, used) for number in range(50)]
    assert len(used) == len(set(made)) == 50
    assert all(8 <= len(text.split()) <= 25 and "{" not in text for text in made)
    assert sentences.count_syllables("my yellow umbrella broke") == 7


def test_all_voices_are_there():
    needs_espeak()
    data = Path(espeak.installed()[1])
    names = [name for voices in mini.VARIANTS.values() for variants in voices.values() for name in variants]
    assert len(set(names)) == len(names)
    assert [name for name in names if not (data / "voices" / "!v" / name).is_file()] == []
    for accent in mini.ACCENTS:
        assert len(espeak.speak(espeak.Voice(f"{accent}+m1"), ["hello"])[0]) > 10000


def test_a_voice_that_is_not_there_is_named():
    needs_espeak()
    with pytest.raises(ValueError, match="no variant 'nobody'"):
        espeak.speak(espeak.Voice("en-us+nobody"), ["hello"])
    with pytest.raises(ValueError, match=r"voice 'xx-yy\+m1': no such voice"):
        espeak.speak(espeak.Voice("xx-yy+m1"), ["hello"])


def test_without_espeak_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ValueError, match=r"pip install -e \.\[mini\]"):
        mini.prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_mini_corpus_is_the_same_every_time(tmp_path, monkeypatch):
    needs_espeak()
    for name, nj in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        folders = mini.prepare(Path("data"), sample_rate=16000, nj=nj, **SMALL)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    for path in folders:
        assert check_set(path)[0] == []
    utts = read_data_dir("data/test")
    assert [utt.utt_id for utt in utts[:3]] == ["test001-01", "test001-02", "test002-01"]
    assert {utt.sample_rate for utt in utts} == {16000}
    assert all(2 < utt.seconds < 6.5 for utt in utts)
    assert read_genders("data/test") == {"test001": "f", "test002": "m", "test003": "f"}
    for utt in utts:
        wave, _ = audio.read(utt.path)
        assert 20 * np.log10(wave.std()) == pytest.approx(mini.LEVEL_DBFS, abs=1.5)
        assert np.abs(wave).max() < 1
        assert utt.activity[0] == "1"  # no pause before the first word


def test_a_killed_run_leaves_no_set_and_the_next_one_ends_the_same(tmp_path):
    needs_espeak()
    options = "--num_talkers 3 3 3 --num_utts 2 --num_clips 1 1 1".split()
    code = "import sys; from tse_lib.bin.prepare import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "mini", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    for name in ("killed", "whole"):
        (tmp_path / name / "data/corpus/shoebox").mkdir(parents=True)
        (tmp_path / name / "data/corpus/shoebox/.partial-x.wav").write_bytes(b"that another process is writing")
    process = subprocess.Popen(command, cwd=tmp_path / "killed", env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("killed/data/corpus/*/*.flac")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list(tmp_path.glob("killed/data/*/wav.scp"))
    begun = next(tmp_path.glob("killed/data/corpus/*/*.flac")).parent  # whichever process was first
    (begun / ".partial-x.flac").write_bytes(b"half")
    for name in ("killed", "whole"):
        subprocess.run([*command, "--nj", "1"], cwd=tmp_path / name, env=environment, check=True, capture_output=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert [path.parent.name for path in tmp_path.glob("whole/data/**/.partial-*")] == ["shoebox"]


def test_wrong_numbers_for_mini_are_named(tmp_path):
    for message, options in {
        "--sample_rate 4000": {"sample_rate": 4000},
        "--num_utts 1": {"num_utts": 1},
        "--num_talkers 2": {"num_talkers": (5, 2, 3)},
        "--num_clips 0": {"num_clips": (1, 1, 0)},
        "--nj 0": {"nj": 0},
    }.items():
        with pytest.raises(ValueError, match=message):
            mini.prepare(tmp_path, **options)


def test_noises_differ_and_are_sound(tmp_path):
    speech = []
    for number in range(3):
        write_wave(tmp_path / f"{number}.wav", seconds=0.7)
        speech.append(str(tmp_path / f"{number}.wav"))
    clips = {}
    for kind, make in NOISES.items():
        clips[kind], again, other = (make(rng(seed, kind), 8000, 8000, speech) for seed in (0, 0, 1))
        np.testing.assert_array_equal(clips[kind], again)
        assert clips[kind].shape == (8000,)
        assert np.isfinite(clips[kind]).all() and clips[kind].std() > 0
        assert abs(np.corrcoef(clips[kind], other)[0, 1]) < 0.9
    assert len(clips) >= 8


# ----------------------------------------------------------------------------------------------------------- together


def test_parallel_results_keep_their_order():
    assert parallel_map(abs, range(-20, 0), 2, "test") == list(range(20, 0, -1))
    assert parallel_map(abs, [], 2, "test") == []
    with pytest.raises(TypeError):
        parallel_map(abs, ["x"] * 4, 2, "test")
    with pytest.raises(OSError, match="test: a process was killed; out of memory"):
        parallel_map(os._exit, [1] * 4, 2, "test")


def test_every_corpus_has_its_subcommand(capsys):
    for name in CORPORA:
        with pytest.raises(SystemExit, match="0"):
            prepare_main([name, "--help"])
        told = " ".join(capsys.readouterr().out.split())
        assert f"example: tse prepare {name}" in told
        assert "(default: noise_train)" not in told and "(default: rir_train)" not in told  # the prefix is less
