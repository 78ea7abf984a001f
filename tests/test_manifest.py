"""Tables and mixtures as text: what is written is read back, and what is wrong is named."""

import dataclasses
import os
from pathlib import Path

import pytest

from tse_lib.files import replace_file
from tse_lib.manifest import (
    Mask,
    Mixture,
    Response,
    Source,
    Utterance,
    audio_path,
    by_speaker,
    job_share,
    make_id,
    read_data_dir,
    read_genders,
    read_mixtures,
    read_table,
    write_data_dir,
    write_mixtures,
    write_table,
)


def utterance(utt_id: str, spk_id: str = "ann", **values) -> Utterance:
    fields = {"path": f"audio/{utt_id}.wav", "sample_rate": 8000, "num_samples": 16000, "activity": "1" * 20}
    return Utterance(utt_id, spk_id=spk_id, **{**fields, **values})


def source(name: str = "a", **values) -> Source:
    return Source(f"audio/{name}.wav", 0, 8000, name, **values)


MIXTURE = Mixture("m1", 8000, 8000, True, (source("a"), source("b", level_db=3.0)), (source("c", spk_id="ann"),))


# ------------------------------------------------------------------------------------------------------------ tables


def test_a_table_is_sorted_bytewise_and_read_back(tmp_path):
    table = {"é": "last", "b": "two words", "B": "upper first", "a": "1"}
    write_table(tmp_path / "table", table)
    assert [line.split()[0] for line in (tmp_path / "table").read_text("utf-8").splitlines()] == ["B", "a", "b", "é"]
    assert read_table(tmp_path / "table") == table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1\na 2\n", r"table:2: duplicate id 'a'"),
        ("a 1\nb\n", r"table:2: '<key> <value>' expected, got 'b'"),
        ("a 1\n\nb 2\n", r"table:2: '<key> <value>' expected, got ''"),
    ],
)
def test_a_faulty_table_names_file_and_line(tmp_path, text, message):
    (tmp_path / "table").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "table")


def test_a_table_in_another_encoding_is_named(tmp_path):
    (tmp_path / "table").write_bytes("a é\nb é\n".encode() + "c é\n".encode("latin-1"))
    with pytest.raises(ValueError, match="table: not UTF-8 text"):
        read_table(tmp_path / "table")


def test_a_file_appears_only_when_it_was_written_to_the_end(tmp_path):
    path = tmp_path / "folder" / "file"
    with pytest.raises(RuntimeError), replace_file(path) as file:
        file.write("half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with replace_file(path) as file:
        file.write("old")
    with pytest.raises(RuntimeError), replace_file(path) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old"


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with replace_file(tmp_path / "ours") as file:
        file.write("")
    assert os.stat(tmp_path / "ours").st_mode == os.stat(tmp_path / "plain").st_mode


# --------------------------------------------------------------------------------------------------------- data sets


def test_a_data_set_is_read_back(tmp_path):
    utts = [
        utterance("bob-1", "bob"),
        utterance("ann-2", path="audio/with space & 'quote'.wav"),
        utterance("ann-1", path="/abs/ümlaut.flac"),
    ]
    write_data_dir(tmp_path, utts, {"ann": "f", "stranger": "m"})
    assert read_data_dir(tmp_path) == sorted(utts, key=lambda utt: utt.utt_id)
    assert read_genders(tmp_path) == {"ann": "f"}
    assert read_table(tmp_path / "spk2utt") == {"ann": "ann-1 ann-2", "bob": "bob-1"}
    assert not (tmp_path / "segments").exists()


def test_parts_of_a_recording_make_segments(tmp_path):
    utts = [
        utterance("ann-enroll", path="long.wav", sample_rate=44100, num_samples=50001),
        utterance("ann-target", path="long.wav", sample_rate=44100, num_samples=70001, start=50001),
        utterance("bob-1", "bob"),
    ]
    write_data_dir(tmp_path, utts)
    assert read_data_dir(tmp_path) == utts
    assert sorted(read_table(tmp_path / "wav.scp").values()) == ["audio/bob-1.wav", "long.wav"]


def test_noise_has_no_speakers_and_a_second_run_leaves_nothing_of_the_first(tmp_path):
    write_data_dir(tmp_path, [utterance("ann-1"), utterance("ann-2", path="audio/ann-1.wav", start=5)], {"ann": "f"})
    noise = Utterance("rain", "rain.wav", 44100, 441000)
    write_data_dir(tmp_path, [noise])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["utt2fs", "utt2num_samples", "wav.scp"]
    assert read_data_dir(tmp_path) == [noise]
    assert noise.seconds == 10.0
    assert read_genders(tmp_path) == {}


def test_the_utterances_of_each_speaker():
    utts = [utterance("1", "bob"), utterance("2", "émile"), utterance("3", "Zoe"), utterance("4", "bob")]
    assert dict(by_speaker(utts)) == {"Zoe": [2], "bob": [0, 3], "émile": [1]}
    assert list(by_speaker(utts)) == ["Zoe", "bob", "émile"]
    assert by_speaker([]) == {}


def test_what_cannot_be_a_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no utterances for this set"):
        write_data_dir(tmp_path / "empty", [])
    with pytest.raises(ValueError, match="duplicate utterance ids: a-1"):
        write_data_dir(tmp_path / "twice", [utterance("a-1"), utterance("a-1", path="other.wav")])


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("wav.scp", "ann-1 sox a.wav - |\n", "'ann-1' is a shell pipe"),
        ("utt2spk", "bob-1 bob\n", "utt2spk: its ids differ from the set's utterances: ann-1, bob-1"),
        ("utt2num_samples", "ann-2 1\n", "utt2num_samples: its ids differ"),
        ("utt2num_samples", "ann-1 1.5\n", "utt2num_samples: 'ann-1': a positive integer expected, got '1.5'"),
        ("utt2num_samples", "", "utt2num_samples: 'ann-1': a positive integer expected, got ''"),
        ("utt2fs", "ann-1 0\n", "utt2fs: 'ann-1': a positive integer expected, got '0'"),
        ("segments", "ann-1 rec9 0 1\n", "'ann-1' names recording 'rec9', not in wav.scp"),
        ("segments", "ann-1 ann-1 inf 1\n", "segments: 'ann-1': '<recording> <start> <end>' expected"),
        ("segments", "ann-1 ann-1 0\n", "segments: 'ann-1': '<recording> <start> <end>' expected, got 'ann-1 0'"),
    ],
)
def test_a_faulty_data_set_names_the_table(tmp_path, table, text, message):
    write_data_dir(tmp_path, [utterance("ann-1")])
    (tmp_path / table).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_data_dir(tmp_path)


def test_a_missing_data_set_names_the_stage(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no data set here .* run the prepare stage"):
        read_data_dir(tmp_path / "nowhere")


def test_ids_have_no_whitespace():
    assert make_id("Ann  Lee", "take\t1", "no\u00a0break") == "Ann_Lee-take_1-no_break"


# ---------------------------------------------------------------------------------------------------------- mixtures


def test_mixtures_are_read_back(tmp_path):
    absent = dataclasses.replace(MIXTURE, mix_id="m2", target_present=False, noise=source("rain"))
    room = Response("room.wav", 5, 400, "room-1", "hall")
    degraded = source("c", spk_id="ann", rir=room, noise=source("hum", level_db=5.0), eq_db=(1.0, -2.0))
    absent = dataclasses.replace(
        absent, enrolls=(degraded,), target="early", early_s=0.05, masks=(Mask("freq", 100.0, 200.0),), clip_db=3.0
    )
    write_mixtures(tmp_path / "mixtures.jsonl", [MIXTURE, absent])
    assert read_mixtures(tmp_path / "mixtures.jsonl") == [MIXTURE, absent]
    assert MIXTURE.target_spk == "ann"
    assert [len(mixture.interferers) for mixture in (MIXTURE, absent)] == [1, 2]


def test_what_is_as_always_is_not_written():
    assert "speed" not in MIXTURE.to_json() and "masks" not in MIXTURE.to_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"mixtures.jsonl:1: not a mixture"),
        ("[]", r"mixtures.jsonl:1: not a mixture"),
        (MIXTURE.to_json().replace('"talkers": [', '"talkers": [1, '), r"mixtures.jsonl:1: not a mixture"),
        ('{"mix_id": "m"}', r"mixtures.jsonl:1: not a mixture \('talkers'\)"),
        (MIXTURE.to_json() + "\n" + MIXTURE.to_json(), r"mixtures.jsonl:2: duplicate mix_id 'm1'"),
        ("", r"no mixtures in it"),
    ],
)
def test_faulty_mixtures_name_file_and_line(tmp_path, text, message):
    (tmp_path / "mixtures.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_mixtures(tmp_path / "mixtures.jsonl")


def test_missing_mixtures_name_the_stage(tmp_path):
    with pytest.raises(FileNotFoundError, match="no mixture list; run the simulate stage"):
        read_mixtures(tmp_path / "mixtures.jsonl")


def test_where_rendered_audio_lies():
    assert audio_path("data/dev", "enroll1", "m1") == Path("data/dev/mixtures/enroll1/m1.flac")


def test_jobs_share_the_work_out_completely():
    shares = [job_share(list(range(10)), f"{job}/3") for job in (1, 2, 3)]
    assert shares == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    for wrong in ("0/3", "4/3", "3", "a/b"):
        with pytest.raises(ValueError, match=f"--job {wrong}"):
            job_share([], wrong)
