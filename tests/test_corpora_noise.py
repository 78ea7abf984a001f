"""Noise corpora: true layouts and names in miniature, sets that share no source, all faults told at once."""

import json
from pathlib import Path

import numpy as np
import pytest

from tse_lib import audio
from tse_lib.bin.prepare import main as prepare_main
from tse_lib.bin.validate import check_set
from tse_lib.corpora import audioset, demand, dns_noise, esc50, fsd50k, musan, wham_noise
from tse_lib.manifest import Utterance, read_data_dir
from tse_lib.rng import rng

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def write_wave(path: Path, sample_rate: int, seconds: float = 0.12, channels: int = 1) -> None:
    wave = 0.1 * rng(0, path.name).standard_normal((channels, round(seconds * sample_rate)))
    audio.write(path, wave.astype(np.float32), sample_rate)


def write_text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def made(folders: list[Path], prefix: str = "noise_") -> dict[str, list[Utterance]]:
    """The sets, after what holds of all of them: valid, ids unique over all, no group in two."""
    sets = {folder.name.removeprefix(prefix): read_data_dir(folder) for folder in folders}
    for folder in folders:
        assert check_set(folder)[0] == []
    ids = [utt.utt_id for utts in sets.values() for utt in utts]
    assert len(set(ids)) == len(ids)
    of_group: dict[str, set[str]] = {}
    for name, utts in sets.items():
        for utt in utts:
            of_group.setdefault(utt.group or utt.utt_id, set()).add(name)
    assert all(len(names) == 1 for names in of_group.values())
    return sets


def ids(utts: list[Utterance]) -> list[str]:
    return [utt.utt_id for utt in utts]


def fault(corpus, root: Path, **options) -> str:
    """The message of a corpus that cannot be used; nothing must have been written."""
    out = root.parent / "nothing"
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        corpus.prepare(root, out, nj=1, **options)
    assert not out.exists()
    return str(caught.value)


# -------------------------------------------------------------------------------------------------------------- musan


def make_musan(root: Path) -> Path:
    for number in range(4):
        write_wave(root / "noise" / "free-sound" / f"noise-free-sound-{number:04d}.wav", 16000)
        write_wave(root / "noise" / "sound-bible" / f"noise-sound-bible-{number:04d}.wav", 16000)
    write_text(root / "noise" / "free-sound" / "ANNOTATIONS", "noise-free-sound-0000 background")
    write_wave(root / "music" / "fma" / "music-fma-0000.wav", 16000)
    write_wave(root / "speech" / "us-gov" / "speech-us-gov-0000.wav", 16000)
    return root


def test_musan_is_its_noise_unless_other_parts_are_named(tmp_path):
    root = make_musan(tmp_path / "musan")
    sets = made(musan.prepare(root, tmp_path / "data", nj=1))
    assert {name: len(utts) for name, utts in sets.items()} == {"train": 6, "dev": 1, "test": 1}
    everything = {utt.utt_id for utts in sets.values() for utt in utts}
    assert "noise-free-sound-noise-free-sound-0000" in everything
    sets = made(musan.prepare(root, tmp_path / "music", parts=("noise", "music"), shares=(1, 0, 0), nj=1))
    assert set(ids(sets["train"])) == everything | {"music-fma-music-fma-0000"}


def test_what_is_wrong_with_musan_is_told_at_once(tmp_path):
    root = make_musan(tmp_path / "musan")
    write_wave(root / "noise" / "free-sound" / "noise-free-sound-0001.wav", 44100)
    (root / "noise" / "sound-bible" / "noise-sound-bible-0001.wav").write_bytes(b"")
    (root / "music" / "fma" / "music-fma-0000.wav").unlink()
    message = fault(musan, root, parts=("noise", "music"))
    assert "3 files cannot be used" in message
    assert "musan/music: no .wav files" in message
    assert "noise-free-sound-0001.wav: 44100 Hz, this corpus has 16000 Hz" in message
    assert "noise-sound-bible-0001.wav: empty file" in message


# --------------------------------------------------------------------------------------------------------- wham_noise

WHAM_COLUMNS = "utterance_id,Noise Band,File ID,L to R Width (cm),Reverberation Level,Location ID,Location Day ID"
WHAM_CLIPS = {
    "tr": (("011a0101_0.061105_401c020r_-0.061105", 5), ("012c0201_1.1_01xo031a_-1.1", 7)),
    "cv": (("050a0501_1.7783_442o030z_-1.7783", 12),),
    "tt": (("440c020f_0.5_443o030a_-0.5", 33), ("441c0205_1.9_444o0312_-1.9", 33)),
}


def make_wham(root: Path) -> Path:
    for folder, clips in WHAM_CLIPS.items():
        rows = [f"{name}.wav,2,{place + 100},17 cm,m,{place},{place}_1" for name, place in clips]
        write_text(root / "metadata" / f"noise_meta_{folder}.csv", WHAM_COLUMNS, *rows)
        for name, _ in clips:
            write_wave(root / folder / f"{name}.wav", 16000, channels=2)
    return root


def test_wham_keeps_its_split_and_its_places_apart(tmp_path, capsys):
    root = make_wham(tmp_path / "wham_noise")
    write_wave(root / "tr" / "011a0101_0.061105_401c020r_-0.061105sp08.wav", 16000)  # as LibriMix adds them
    (root / "tr" / "._011a0101.wav").write_bytes(b"of macOS")
    sets = made(wham_noise.prepare(root, tmp_path / "data", nj=1))
    assert ids(sets["train"]) == [f"tr-{name}" for name, _ in WHAM_CLIPS["tr"]]
    assert ids(sets["dev"]) == [f"cv-{name}" for name, _ in WHAM_CLIPS["cv"]]
    assert [utt.group for utt in sets["test"]] == ["loc33", "loc33"]
    output = capsys.readouterr().out
    assert "left out, 1 files that the metadata does not list" in output
    assert "5 files have several channels" in output


def test_what_is_wrong_with_wham_is_told_at_once(tmp_path):
    root = make_wham(tmp_path / "wham_noise")
    (root / "cv" / f"{WHAM_CLIPS['cv'][0][0]}.wav").unlink()
    write_wave(root / "tt" / f"{WHAM_CLIPS['tt'][0][0]}.wav", 8000)
    with open(root / "metadata" / "noise_meta_tr.csv", "a") as file:
        file.write("../../secret.wav,2,1,17 cm,m,1,1_1\n444c0201.wav,2\n")
    message = fault(wham_noise, root)
    assert "4 files cannot be used" in message
    assert "noise_meta_tr.csv:4: a file and its place expected, got '../../secret.wav', '1'" in message
    assert "noise_meta_tr.csv:5: a file and its place expected, got '444c0201.wav', ''" in message
    assert f"{WHAM_CLIPS['cv'][0][0]}.wav: no such audio file" in message
    assert "8000 Hz, this corpus has 16000 Hz" in message


def test_a_place_of_wham_in_two_sets_is_refused(tmp_path):
    root = make_wham(tmp_path / "wham_noise")
    table = root / "metadata" / "noise_meta_cv.csv"
    table.write_text(table.read_text().replace(",12,12_1", ",33,33_1"))
    assert "group 'loc33' is in dev and in test" in fault(wham_noise, root)


def make_wham_high_res(root: Path) -> Path:
    rows = {
        "file000_000000000_loc05_day1.wav": "Train",
        "file000_007680000_loc05_day1.wav": "Train",
        "file017_000000000_loc12_day2.wav": "Valid",
        "file020_000000000_loc33_day1.wav": "Test",
        "file021_000000000_loc40_day1.wav": "None",
    }
    lines = [f"{name},{split},12.5" for name, split in rows.items()]
    for name in rows:
        write_wave(root / "audio" / name, 48000, channels=2)
    return write_text(root / "high_res_metadata.csv", "Filename,WHAM! Split,File Length (sec)", *lines)


def test_wham_in_high_resolution(tmp_path):
    root = tmp_path / "high_res_wham"
    table = make_wham_high_res(root)
    sets = made(wham_noise.prepare(root, tmp_path / "data", high_res=True, nj=1))
    assert ids(sets["train"]) == ["file000_000000000_loc05_day1", "file000_007680000_loc05_day1"]
    assert [utt.group for utts in sets.values() for utt in utts] == ["loc05", "loc05", "loc12", "loc33"]
    table.write_text(table.read_text().replace("Valid", "Dev"))
    (root / "audio" / "file020_000000000_loc33_day1.wav").unlink()
    message = fault(wham_noise, root, high_res=True)
    assert "split 'Dev' is none of Train, Valid, Test" in message and "loc33_day1.wav: no such audio file" in message


# ------------------------------------------------------------------------------------------------------------- demand


def make_demand(root: Path, environments: tuple[str, ...]) -> Path:
    for name in environments:
        for channel in range(1, 17):
            write_wave(root / name / f"ch{channel:02d}.wav", 48000)
    return root


def test_the_channels_of_a_demand_environment_stay_together(tmp_path):
    root = make_demand(tmp_path / "demand", ("DKITCHEN", "TBUS", "SCAFE", "PRESTO"))
    (root / "zips").mkdir()
    sets = made(demand.prepare(root, tmp_path / "data", channels=(9, 1), nj=1))
    assert {name: len(utts) for name, utts in sets.items()} == {"train": 4, "dev": 2, "test": 2}
    assert ids(sets["dev"]) == [f"{sets['dev'][0].group}-ch01", f"{sets['dev'][0].group}-ch09"]
    assert len(read_data_dir(demand.prepare(root, tmp_path / "one", shares=(1, 0, 0), nj=1)[0])) == 4


def test_what_is_wrong_with_demand_is_told_at_once(tmp_path):
    root = make_demand(tmp_path / "demand", ("DKITCHEN", "TBUS", "SCAFE"))
    (root / "TBUS" / "ch01.wav").unlink()
    write_wave(root / "SCAFE" / "ch01.wav", 16000)
    message = fault(demand, root, sample_rate=48000)
    assert "TBUS/ch01.wav: no such audio file" in message and "SCAFE/ch01.wav: 16000 Hz" in message
    assert "--channels 17: 1 to 16" in fault(demand, root, channels=(17,))
    assert "none of DEMAND's folders" in fault(demand, tmp_path)


# ---------------------------------------------------------------------------------------------------------- dns_noise


def test_clips_of_one_recording_stay_together_in_dns_noise(tmp_path):
    root = tmp_path / "noise_fullband"
    names = [f"{kind}_Freesound_validated_235661_{clip}" for kind in ("door", "breath_spit") for clip in range(3)]
    names += ["4hlyuUXRd4o", "-WP63k5C1qd", "a_b-c_d-e_1", "fan_Freesound_validated_361372_19", "unknown"]
    for name in names:
        write_wave(root / f"{name}.wav", 48000)
    sets = made(dns_noise.prepare(root, tmp_path / "data", shares=(0.5, 0.25, 0.25), nj=1))
    groups = {utt.utt_id: utt.group for utts in sets.values() for utt in utts}
    assert {groups[name] for name in names[:6]} == {"freesound-235661"}
    assert groups["4hlyuUXRd4o"] == "youtube-4hlyuUXRd4o"
    assert groups["a_b-c_d-e_1"] == "youtube-a_b-c_d-e_1"  # its own underscore, not the number of a clip
    assert groups["unknown"] == "unknown"
    write_wave(root / "4hlyuUXRd4o.wav", 16000)
    (root / "unknown.wav").write_bytes(b"RIFF")
    message = fault(dns_noise, root)
    assert "2 files cannot be used" in message and "4hlyuUXRd4o.wav: 16000 Hz, this corpus has 48000 Hz" in message


# -------------------------------------------------------------------------------------------------------------- esc50

ESC_COLUMNS = "filename,fold,target,category,esc10,src_file,take"


def make_esc50(root: Path) -> Path:
    rows = []
    for fold in range(1, 6):
        for take in "AB":
            name = f"{fold}-{100000 + fold}-{take}-10.wav"
            rows.append(f"{name},{fold},10,rain,True,{100000 + fold},{take}")
        rows.append(f"{fold}-{200000 + fold}-A-0.wav,{fold},0,dog,True,{200000 + fold},A")
    write_text(root / "meta" / "esc50.csv", ESC_COLUMNS, *rows)
    for row in rows:
        write_wave(root / "audio" / row.partition(",")[0], 44100)
    return root


def test_esc50_splits_by_folds(tmp_path):
    root = make_esc50(tmp_path / "ESC-50-master")
    sets = made(esc50.prepare(root, tmp_path / "data", nj=1))
    assert {name: len(utts) for name, utts in sets.items()} == {"train": 9, "dev": 3, "test": 3}
    assert ids(sets["dev"]) == ["4-100004-A-10", "4-100004-B-10", "4-200004-A-0"]
    sets = made(esc50.prepare(root, tmp_path / "rain", categories=["rain"], nj=1))
    assert ids(sets["test"]) == ["5-100005-A-10", "5-100005-B-10"]
    assert "--categories cat: " in fault(esc50, root, categories=["cat"])


@pytest.mark.parametrize(
    ("make", "name", "corpus"), [(make_esc50, "ESC-50-master", esc50), (make_musan, "musan", musan)]
)
def test_the_root_may_be_where_the_archive_was_unpacked(tmp_path, make, name, corpus):
    make(tmp_path / name)
    inside, above = (made(corpus.prepare(root, tmp_path / "data", nj=1)) for root in (tmp_path / name, tmp_path))
    assert {key: ids(utts) for key, utts in inside.items()} == {key: ids(utts) for key, utts in above.items()}


def test_what_is_wrong_with_esc50_is_told_at_once(tmp_path):
    root = make_esc50(tmp_path / "ESC-50-master")
    table = root / "meta" / "esc50.csv"
    table.write_text(table.read_text().replace("1-100001-A-10.wav,1", "1-100001-A-10.wav,6"))
    (root / "audio" / "2-100002-A-10.wav").unlink()
    write_wave(root / "audio" / "3-100003-A-10.wav", 22050)
    message = fault(esc50, root)
    assert "3 files cannot be used" in message
    assert "esc50.csv:2: '1-100001-A-10.wav' is not <fold>-<src_file>-<take>-<target>.wav" in message
    assert "2-100002-A-10.wav: no such audio file" in message and "3-100003-A-10.wav: 22050 Hz" in message
    (root / "meta" / "esc50.csv").unlink()
    assert "esc50.csv: no such table" in fault(esc50, root)


def test_a_recording_of_esc50_in_two_sets_is_refused(tmp_path):
    root = make_esc50(tmp_path / "ESC-50-master")
    table = root / "meta" / "esc50.csv"
    table.write_text(
        table.read_text().replace("5-100005-A-10.wav,5,10,rain,True,100005", "5-100001-A-10.wav,5,10,rain,True,100001")
    )
    (root / "audio" / "5-100005-A-10.wav").rename(root / "audio" / "5-100001-A-10.wav")
    assert "group '100001' is in train and in test" in fault(esc50, root)


@pytest.mark.corpus
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real recordings are not at {SHARED}")
def test_real_clips_of_esc_in_the_layout_of_esc50(tmp_path):
    """Real names and ids of Freesound: that no recording crosses the folds is checked on them."""
    targets = {"rooster": 1, "rain": 10, "sea_waves": 11}
    rows = []
    for category, target in targets.items():
        for path in sorted((SHARED / "noise" / "esc10_44k" / category).glob("*.ogg")):
            fold, source, take = path.stem.split("-")
            name = f"{path.stem}-{target}.wav"
            audio.write(tmp_path / "audio" / name, audio.read(path)[0], audio.info(path).sample_rate)
            rows.append(f"{name},{fold},{target},{category},True,{source},{take}")
    write_text(tmp_path / "meta" / "esc50.csv", ESC_COLUMNS, *rows)
    sets = made(esc50.prepare(tmp_path, tmp_path / "data", nj=1))
    assert set(sets) == {"train", "dev"}  # fold 5 is not there
    assert sum(map(len, sets.values())) == len(rows) > 20


# ------------------------------------------------------------------------------------------------------------- fsd50k


def make_fsd50k(root: Path) -> Path:
    truth = root / "FSD50K.ground_truth"
    dev = {
        "64760": ("Rain,Water", "train"),
        "16399": ("Male_speech_and_man_speaking,Speech,Human_voice", "train"),
        "21914": ("Engine", "val"),
    }
    test = {"37199": "Rain,Water", "175151": "Singing,Human_voice,Music"}
    write_text(
        truth / "dev.csv",
        "fname,labels,mids,split",
        *(f'{name},"{labels}","/m/06mb1",{split}' for name, (labels, split) in dev.items()),
    )
    write_text(
        truth / "eval.csv", "fname,labels,mids", *(f'{name},"{labels}","/m/06mb1"' for name, labels in test.items())
    )
    names = ("Engine", "Music", "Rain", "Shout", "Singing", "Speech", "Water", "Whispering")
    write_text(truth / "vocabulary.csv", *(f"{number},{name},/m/{number}" for number, name in enumerate(names)))
    for name in dev:
        write_wave(root / "FSD50K.dev_audio" / f"{name}.wav", 44100)
    for name in test:
        write_wave(root / "FSD50K.eval_audio" / f"{name}.wav", 44100)
    return root


def test_fsd50k_leaves_out_voices_unless_told_otherwise(tmp_path, capsys):
    root = make_fsd50k(tmp_path / "fsd50k")
    sets = made(fsd50k.prepare(root, tmp_path / "data", nj=1))
    assert {name: ids(utts) for name, utts in sets.items()} == {
        "train": ["dev-64760"], "dev": ["dev-21914"], "test": ["eval-37199"],
    }  # fmt: skip
    assert "left out, 2 clips with Speech, Shout, Whispering, Singing" in capsys.readouterr().out
    assert sum(map(len, made(fsd50k.prepare(root, tmp_path / "all", exclude=(), nj=1)).values())) == 5
    assert "--exclude Speach: not in" in fault(fsd50k, root, exclude=["Speach"])


def test_what_is_wrong_with_fsd50k_is_told_at_once(tmp_path):
    root = make_fsd50k(tmp_path / "fsd50k")
    table = root / "FSD50K.ground_truth" / "dev.csv"
    table.write_text(table.read_text().replace(",val", ",valid") + "../37199,Rain,/m/06mb1,train\n")
    (root / "FSD50K.dev_audio" / "64760.wav").unlink()
    write_wave(root / "FSD50K.eval_audio" / "37199.wav", 48000)
    message = fault(fsd50k, root)
    assert "4 files cannot be used" in message
    assert "dev.csv:4: a name, labels and a split expected, got 21914" in message
    assert "dev.csv:5: a name, labels and a split expected, got ../37199" in message
    assert "64760.wav: no such audio file" in message and "37199.wav: 48000 Hz" in message
    (root / "FSD50K.ground_truth" / "vocabulary.csv").unlink()
    assert "vocabulary.csv: no such table" in fault(fsd50k, root)
    (root / "FSD50K.ground_truth" / "vocabulary.csv").write_bytes(b"0,G\xe9,/m/0\n")
    assert "vocabulary.csv: not UTF-8 text" in fault(fsd50k, root)


# ----------------------------------------------------------------------------------------------------------- audioset

VIDEOS = ("--PJHxphWEs", "Y0aBcD_fgHi", "xyz12345_10", "0123456789A", "abcdefghijk")


def make_audioset(root: Path) -> Path:
    for name, rate in (
        (f"{VIDEOS[0]}_30.000_40.000.wav", 44100),
        (f"{VIDEOS[0]}_40_50.wav", 44100),
        (f"{VIDEOS[1]}.wav", 48000),
        (f"{VIDEOS[2]}_30.flac", 32000),
        (f"Y{VIDEOS[3]}.ogg", 16000),
        (f"{VIDEOS[4]}_0_10.wav", 48000),
    ):
        if name.endswith(".ogg"):  # the name counts; the content says what it is
            write_wave(root / "a" / f"{name}.wav", rate)
            (root / "a" / f"{name}.wav").rename(root / "a" / name)
        else:
            write_wave(root / "a" / name, rate)
    return root


def test_the_clips_of_a_video_stay_together_in_audioset(tmp_path):
    root = make_audioset(tmp_path / "audioset")
    sets = made(audioset.prepare(root, tmp_path / "data", nj=1))
    groups = {utt.group for utts in sets.values() for utt in utts}
    assert groups == set(VIDEOS)
    assert sum(map(len, sets.values())) == 6


def make_tables(folder: Path) -> dict:
    lines = [
        "# Segments csv created Sun Mar  5 10:54:31 2017",
        "# num_ytids=4, num_segs=4",
        "# YTID, start_seconds, end_seconds, positive_labels",
        f'{VIDEOS[0]}, 30.000, 40.000, "/m/06mb1,/t/dd00130"',
        f'{VIDEOS[1]}, 0.000, 10.000, "/m/06mb1,/m/05zppz"',
        f'{VIDEOS[2]}, 30.000, 40.000, "/m/04rlf"',
        f'{VIDEOS[3]}, 30.000, 40.000, "/m/0k4j"',
    ]
    classes = {
        "/m/0dgw9r": ("Human sounds", ["/m/09x0r"]),
        "/m/09x0r": ("Speech", ["/m/05zppz"]),
        "/m/05zppz": ("Male speech, man speaking", []),
        "/m/04rlf": ("Music", []),
    }
    entries = [{"id": label, "name": name, "child_ids": below} for label, (name, below) in classes.items()]
    return {
        "segments": [write_text(folder / "balanced_train_segments.csv", *lines)],
        "ontology": write_text(folder / "ontology.json", json.dumps(entries)),
    }


def test_audioset_leaves_out_classes_and_what_is_below_them(tmp_path, capsys):
    root, tables = make_audioset(tmp_path / "audioset"), make_tables(tmp_path)
    message = fault(audioset, root, exclude=["Human sounds", "Music"], **tables)
    assert f"1 files cannot be used (--skip_bad goes on without them):\n  {root}/a/{VIDEOS[4]}_0_10.wav" in message
    (root / "a" / f"{VIDEOS[4]}_0_10.wav").unlink()
    folders = audioset.prepare(
        root, tmp_path / "data", exclude=["Human sounds", "Music"], shares=(0.5, 0, 0.5), nj=1, **tables
    )
    assert {utt.group for utts in made(folders).values() for utt in utts} == {VIDEOS[0], VIDEOS[3]}
    assert "left out, 2 clips with Human sounds, Music" in capsys.readouterr().out


def test_what_is_wrong_with_audioset_is_told(tmp_path):
    root, tables = make_audioset(tmp_path / "audioset"), make_tables(tmp_path)
    write_wave(root / "holiday.wav", 48000)
    with open(tables["segments"][0], "a") as file:
        file.write("abcdefghijk, 0.000\n")
    (root / "a" / f"{VIDEOS[1]}.wav").write_bytes(b"")
    message = fault(audioset, root, **tables)
    assert "3 files cannot be used" in message
    assert "balanced_train_segments.csv:8: <id>, <start>, <end>, <labels> expected" in message
    assert "holiday.wav: <id>, <id>_<start> or <id>_<start>_<end> expected" in message
    assert f"{VIDEOS[1]}.wav: empty file" in message
    assert "--exclude Speech: needs --segments and --ontology" in fault(audioset, root, exclude=["Speech"])
    assert "--exclude Talk: no such name in" in fault(audioset, root, exclude=["Talk"], **tables)
    tables["ontology"].write_text("[{}]")
    assert "ontology.json: not AudioSet's" in fault(audioset, root, exclude=["Music"], **tables)
    tables["segments"][0].write_bytes(b"abcdefghijk, 0.000, 10.000, \xff\n")
    assert "segments.csv: not UTF-8 text" in fault(audioset, root, segments=tables["segments"])


# ------------------------------------------------------------------------------------------------------------ together


@pytest.mark.parametrize("name", ("musan", "wham_noise", "demand", "dns_noise", "esc50", "fsd50k", "audioset"))
def test_the_command_takes_what_the_function_takes(name, tmp_path):
    with pytest.raises(FileNotFoundError):
        prepare_main([name, "--root", str(tmp_path / "nowhere"), "--out", str(tmp_path / "data")])
