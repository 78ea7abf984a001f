"""Room responses: the layouts of openslr.org/26 and /28 in miniature, and the physics of simulated rooms."""

import csv
import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from tests.test_corpora_noise import made as made_sets
from tse_lib import audio
from tse_lib.bin.prepare import main as prepare_main
from tse_lib.bin.validate import check_set
from tse_lib.corpora import folder, shoebox, slr26, slr28
from tse_lib.corpora.shoebox import Room, Settings
from tse_lib.manifest import Utterance, read_data_dir
from tse_lib.parallel import parallel_map
from tse_lib.rng import rng


def write_response(path: Path, sample_rate: int = 16000, channels: int = 1) -> None:
    decay = np.exp(-np.arange(400) / 60)
    wave = decay * rng(0, path.name).standard_normal((channels, 400))
    audio.write(path, wave.astype(np.float32), sample_rate)


def made(folders: list[Path], prefix: str = "rir_") -> dict[str, list[Utterance]]:
    return made_sets(folders, prefix)


def fault(corpus, root: Path, **options) -> str:
    """The message of a corpus that cannot be used; no set must have been written."""
    out = root.parent / "nothing"
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        corpus.prepare(root, out, nj=1, **options)
    assert not list(out.glob("*/wav.scp"))
    return str(caught.value)


# -------------------------------------------------------------------------------------------------------------- slr26


def make_simulated(root: Path, top: str, sample_rate: int = 16000, lists: bool = True) -> Path:
    for size in ("smallroom", "mediumroom", "largeroom"):
        lines = []
        for room in ("Room001", "Room002"):
            for number in (1, 2):
                write_response(root / top / size / room / f"{room}-{number:05d}.wav", sample_rate)
                path = f"{top}/{size}/{room}/{room}-{number:05d}.wav"
                lines.append(f"--rir-id {size[:-4]}-{number:05d} --room-id {size[:-4]}-{room} {path}\n")
        if lists:
            (root / top / size / "rir_list").write_text("".join(lines))
    return root


@pytest.mark.parametrize("lists", (True, False))
def test_a_simulated_room_is_its_size_and_its_number(tmp_path, lists):
    root = make_simulated(tmp_path / "slr26", "simulated_rirs_48k", 48000, lists)
    (root / "simulated_rirs_48k/smallroom/Room001/._Room001-00001.wav").write_bytes(b"of macOS")
    sets = made(slr26.prepare(root, tmp_path / "data", sample_rate=48000, shares=(0.5, 0.17, 0.33), nj=1))
    assert {name: len(utts) for name, utts in sets.items()} == {"train": 6, "dev": 2, "test": 4}
    groups = {utt.group for utts in sets.values() for utt in utts}
    assert {"smallroom-Room001", "largeroom-Room001"} < groups and len(groups) == 6
    some = slr26.prepare(root, tmp_path / "one", sample_rate=48000, sizes=["mediumroom"], shares=(1, 0, 0), nj=1)
    assert [utt.utt_id for utt in read_data_dir(some[0])][0] == "mediumroom-Room001-Room001-00001"


def test_what_is_wrong_with_slr26_is_told_at_once(tmp_path):
    root = make_simulated(tmp_path / "slr26", "simulated_rirs_16k")
    top = root / "simulated_rirs_16k"
    (top / "smallroom" / "Room001" / "Room001-00001.wav").unlink()
    write_response(top / "largeroom" / "Room002" / "Room002-00002.wav", 8000)
    with open(top / "mediumroom" / "rir_list", "a") as file:
        file.write("--rir-id x --room-id y simulated_rirs_16k/mediumroom/Room001/../../../secret.wav\n")
    message = fault(slr26, root)
    assert "3 files cannot be used" in message
    assert "rir_list:5: mediumroom/Room<number>/Room<number>-<number>.wav expected" in message
    assert "Room001-00001.wav: no such audio file" in message and "Room002-00002.wav: 8000 Hz" in message
    (top / "mediumroom" / "rir_list").write_bytes(b"\xff")
    assert "rir_list: not UTF-8 text" in fault(slr26, root)
    assert "--root is the folder that holds simulated_rirs_48k/" in fault(slr26, root, sample_rate=48000)


# -------------------------------------------------------------------------------------------------------------- slr28

REAL = {
    "RVB2014_type1_rir_largeroom1_far_angla": ("RVB2014-largeroom1", 8),
    "RVB2014_type1_rir_largeroom1_near_anglb": ("RVB2014-largeroom1", 8),
    "RVB2014_type2_rir_simroom3_near_angla": ("RVB2014-simroom3", 8),
    "RWCP_type1_rir_circle_ane_imp000": ("RWCP-ane", 30),
    "RWCP_type1_rir_circle_e1a_imp010": ("RWCP-e1", 30),
    "RWCP_type1_rir_circle_e1c_imp_rev": ("RWCP-e1", 30),
    "RWCP_type1_rir_cirline_jr2_imp090": ("RWCP-jr2", 16),
    "RWCP_type2_rir_cirline_ofc_imp130": ("RWCP-ofc", 16),
    "RWCP_type3_rir_cirline_ofc_imp090": ("RWCP-ofc", 16),
    "RWCP_type4_rir_p30l": ("RWCP-robot", 1),
    "RWCP_type4_rir_000r": ("RWCP-robot", 1),
    "air_type1_air_binaural_aula_carolina_1_3_0_3": ("AIR-aula_carolina", 2),
    "air_type1_air_binaural_stairway_1_2_60": ("AIR-stairway", 2),
    "air_type1_air_phone_stairway1_hfrp": ("AIR-stairway", 2),
    "air_type1_air_binaural_lecture_0_1": ("AIR-lecture", 2),
    "air_type1_air_phone_lecture1_hhp": ("AIR-lecture", 2),
    "air_type1_air_phone_bt_office_hhp": ("AIR-office", 2),
}
ISOTROPIC = {
    "RVB2014_type1_noise_largeroom1_10": ("RVB2014-largeroom1", 8),
    "RVB2014_type2_noise_simroom3_1": ("RVB2014-simroom3", 8),
    "RWCP_type5_noise_cirline_ofc_ambient1": ("RWCP-ofc", 16),
}


def make_slr28(root: Path) -> Path:
    real = root / "real_rirs_isotropic_noises"
    for name, (_, channels) in REAL.items():
        write_response(real / f"{name}.wav", channels=channels)
    for name, (_, channels) in ISOTROPIC.items():
        audio.write(real / f"{name}.wav", 0.1 * np.ones((channels, 2000), np.float32), 16000)
    points = [f"noise-free-sound-{number:04d}" for number in range(3)]
    for name in points:
        audio.write(root / "pointsource_noises" / f"{name}.wav", 0.1 * np.ones(2000, np.float32), 16000)
    for path, names, words in (
        (real / "rir_list", REAL, "--rir-id 00001 --room-id AIR_x"),
        (real / "noise_list", ISOTROPIC, "--noise-id 00001 --noise-type isotropic --room-linkage x"),
        (root / "pointsource_noises" / "noise_list", points, "--noise-id x --noise-type point-source"),
    ):
        path.write_text("".join(f"{words} RIRS_NOISES/{path.parent.name}/{name}.wav\n" for name in names))
    return make_simulated(root, "simulated_rirs")


def test_the_rooms_of_slr28_by_the_names_of_its_files():
    for name, (room, _) in {**REAL, **ISOTROPIC}.items():
        assert slr28.room_of(name) == room
    for name in ("mystery_take", "RWCP_type4_rir_", "air_type1_air_binaural_"):
        assert slr28.room_of(name) == ""


def test_measured_responses_of_slr28_become_single_channels_split_by_rooms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = make_slr28(Path("RIRS_NOISES"))
    sets = made(slr28.prepare(root, Path("data"), nj=1))
    by_id = {utt.utt_id: utt for utts in sets.values() for utt in utts}
    assert len(by_id) == len(REAL)
    assert by_id["real-RWCP_type4_rir_p30l"].path == "RIRS_NOISES/real_rirs_isotropic_noises/RWCP_type4_rir_p30l.wav"
    utt = by_id["real-RVB2014_type2_rir_simroom3_near_angla-ch1"]
    assert (utt.path, utt.group) == (
        "data/corpus/slr28/RVB2014_type2_rir_simroom3_near_angla-ch1.wav",
        "RVB2014-simroom3",
    )
    all_channels = audio.read(root / "real_rirs_isotropic_noises/RVB2014_type2_rir_simroom3_near_angla.wav", mono=False)
    np.testing.assert_array_equal(audio.read(utt.path)[0], all_channels[0][0])

    sets = made(slr28.prepare(root, Path("some"), channels=(9, 2), nj=1))
    ids = {utt.utt_id for utts in sets.values() for utt in utts}
    assert {"real-RWCP_type1_rir_circle_ane_imp000-ch2", "real-RWCP_type1_rir_circle_ane_imp000-ch9"} < ids
    assert "real-air_type1_air_phone_bt_office_hhp-ch9" not in ids  # two channels


def test_the_other_parts_of_slr28(tmp_path):
    root = make_slr28(tmp_path / "RIRS_NOISES")
    sets = made(slr28.prepare(root, tmp_path / "data", parts=("real", "simulated"), nj=1))
    assert sum(map(len, sets.values())) == len(REAL) + 12
    folders = slr28.prepare(root, tmp_path / "data", parts=("isotropic", "pointsource"), nj=1)
    assert [path.name for path in folders] == ["noise_train", "noise_dev", "noise_test"]
    utts = [utt for utts in made(folders, "noise_").values() for utt in utts]
    assert sorted(utt.group for utt in utts if "isotropic" in utt.utt_id) == [
        "RVB2014-largeroom1",
        "RVB2014-simroom3",
        "RWCP-ofc",
    ]
    assert len(utts) == 6
    assert "prepare them one by one" in fault(slr28, root, parts=("real", "isotropic"))
    assert "--channels 0: they are counted from 1" in fault(slr28, root, channels=(0,))


def test_what_is_wrong_with_slr28_is_told_at_once(tmp_path):
    root = make_slr28(tmp_path / "RIRS_NOISES")
    real = root / "real_rirs_isotropic_noises"
    write_response(real / "mystery_take.wav")
    with open(real / "rir_list", "a") as file:
        file.write("--rir-id 9 --room-id x RIRS_NOISES/real_rirs_isotropic_noises/mystery_take.wav\n--rir-id 10\n")
    (real / "RWCP_type4_rir_p30l.wav").unlink()
    (real / "RVB2014_type1_rir_largeroom1_far_angla.wav").write_bytes(b"no audio")
    write_response(real / "air_type1_air_phone_lecture1_hhp.wav", 48000, 2)
    message = fault(slr28, root)
    assert "5 files cannot be used" in message
    assert "rir_list:18: 'mystery_take.wav': the name does not tell the room" in message
    assert "rir_list:19: the path of a .wav file expected at its end" in message
    assert "RWCP_type4_rir_p30l.wav: no such audio file" in message
    assert "RVB2014_type1_rir_largeroom1_far_angla.wav: not an audio file" in message
    assert "air_type1_air_phone_lecture1_hhp-ch1.wav: 48000 Hz, this corpus has 16000 Hz" in message
    assert "--root is the folder RIRS_NOISES" in fault(slr28, real)


# ------------------------------------------------------------------------------------------------------------ shoebox


@pytest.fixture
def needs_pyroomacoustics():
    pytest.importorskip("pyroomacoustics", reason="pyroomacoustics is not installed (pip install -e .[sim])")


SMALL = {"rt60_s": (0.15, 0.25), "size_m": (3.0, 4.5), "height_m": (2.4, 3.0), "distance_m": (0.5, 1.5)}
SAMPLE_M = shoebox.SOUND_MPS / 16000  # what sound travels in a sample


def a_room(absorption: float, *distances_m: float) -> Room:
    microphone = (2.13, 1.71, 1.22)
    talkers = tuple((2.13 + distance, 1.71, 1.22) for distance in distances_m)
    return Room((6.1, 4.3, 2.9), 0.3, absorption, microphone, talkers)


def fall_s(wave: np.ndarray, first: int, down_db: float) -> float:
    """Seconds from the direct sound until that much less energy is still to come, of the band of speech."""
    band = sosfilt(butter(4, (300, 4000), "bandpass", fs=16000, output="sos"), wave)
    left = np.cumsum(band[first + 64 :][::-1] ** 2)[::-1]
    return int(np.argmax(left < left[0] * 10 ** (-down_db / 10))) / 16000


def test_the_direct_sound_comes_after_its_way_and_nothing_before_it(needs_pyroomacoustics):
    samples = (48, 96, 131)
    waves = shoebox.simulate(a_room(0.5, *(count * SAMPLE_M for count in samples)), 16000)
    for wave, count in zip(waves, samples, strict=True):
        assert wave.dtype == np.float32 and wave.ndim == 1
        assert np.argmax(np.abs(wave)) == count
        assert np.abs(wave[: count - 1]).max() < 0.01 * wave[count]


def test_the_direct_sound_is_half_as_high_at_twice_the_distance(needs_pyroomacoustics):
    near, far = shoebox.simulate(a_room(0.8, 48 * SAMPLE_M, 96 * SAMPLE_M), 16000)
    assert 20 * math.log10(near[48] / far[96]) == pytest.approx(6.02, abs=0.1)


def test_walls_that_absorb_more_make_a_shorter_decay(needs_pyroomacoustics):
    falls = [
        fall_s(shoebox.simulate(a_room(absorption, 1.0), 16000)[0], 47, 20) for absorption in (0.15, 0.3, 0.5, 0.8)
    ]
    assert falls[0] > 1.5 * falls[1] > 2 * falls[2] > 2.5 * falls[3]


def test_there_is_no_rumble_below_the_speech(needs_pyroomacoustics):
    wave = shoebox.simulate(a_room(0.2, 1.5), 16000)[0]
    spectrum, hertz = np.abs(np.fft.rfft(wave, 1 << 16)) ** 2, np.fft.rfftfreq(1 << 16, 1 / 16000)
    assert spectrum[hertz < 30].sum() < 0.02 * spectrum.sum()


@pytest.mark.parametrize("number", range(1, 5))
def test_the_sound_decays_in_the_time_that_was_asked_for(needs_pyroomacoustics, number):
    room = shoebox.draw_room(Settings(rt60_s=(0.15, 0.45)), number)
    times = []
    for talker, wave in zip(room.talkers, shoebox.simulate(room, 16000), strict=True):
        first = round(math.dist(talker, room.microphone) / SAMPLE_M)
        times.append(3 * (fall_s(wave, first, 25) - fall_s(wave, first, 5)))
    assert np.mean(times) == pytest.approx(room.rt60_s, rel=0.15)


def test_the_reverberation_time_of_a_decay_that_is_known():
    for seconds in (0.2, 0.7):
        energy = 10 ** (-6 * np.arange(round(seconds * 8000)) / (seconds * 8000))
        assert shoebox.reverberation_time(energy, 8000) == pytest.approx(seconds, rel=0.02)
    assert shoebox.reverberation_time(np.zeros(100), 1000) == 0.0


def test_a_longer_decay_needs_walls_that_absorb_less():
    absorptions = [shoebox.find_absorption(replace(a_room(0.0, 1.3), rt60_s=seconds)) for seconds in (0.2, 0.35, 0.6)]
    assert 0.9 > absorptions[0] > absorptions[1] > absorptions[2] > 0.05


def test_rooms_are_functions_of_the_seed_and_their_number_within_the_ranges():
    settings = Settings(seed=3, per_room=2, **SMALL)
    rooms = [shoebox.draw_room(settings, number) for number in (1, 2, 3)]
    assert rooms[1] == shoebox.draw_room(settings, 2)
    assert rooms[1] != shoebox.draw_room(replace(settings, seed=4), 2)
    for room in rooms:
        assert 0.15 <= room.rt60_s <= 0.25 and 3 <= min(room.size_m[:2]) and max(room.size_m[:2]) <= 4.5
        assert 2.4 <= room.size_m[2] <= 3 and len(room.talkers) == 2
        for position in (room.microphone, *room.talkers):
            assert all(0.5 <= place <= length - 0.5 for place, length in zip(position, room.size_m, strict=True))
        assert all(0.5 <= math.dist(talker, room.microphone) <= 1.5 for talker in room.talkers)


def test_simulated_rooms_become_sets_and_a_table_that_folder_reads(needs_pyroomacoustics, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sets = made(shoebox.prepare(Path("data"), num_rooms=4, per_room=2, shares=(0.5, 0.25, 0.25), nj=1, **SMALL))
    assert {name: len(utts) for name, utts in sets.items()} == {"train": 4, "dev": 2, "test": 2}
    table = Path("data/corpus/shoebox/metadata.csv")
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows[:3]] == [
        "room0001/room0001-1.wav",
        "room0001/room0001-2.wav",
        "room0002/room0002-1.wav",
    ]
    for row in rows:
        assert float(row["rt60_s"]) == pytest.approx(float(row["rt60_asked_s"]), rel=0.2)
        assert audio.info(table.parent / row["path"]).num_samples == int(row["num_samples"])
    again = made(folder.prepare(table.parent, Path("again"), "rir_", "rir", shares=(0.5, 0.25, 0.25), nj=1))
    groups = [{utt.group for utts in of.values() for utt in utts} for of in (sets, again)]
    assert groups[0] == groups[1] == {f"room000{number}" for number in range(1, 5)}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_rooms_that_are_whole_are_kept(needs_pyroomacoustics, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"num_rooms": 4, "per_room": 1, "nj": 1, **SMALL}
    shoebox.prepare(Path("data"), **options)
    before = contents(tmp_path)
    corpus = Path("data/corpus/shoebox")
    (corpus / "room0001" / "room0001-1.wav").unlink()
    (corpus / "room0002" / "room.json").unlink()
    cut = corpus / "room0003" / "room0003-1.wav"
    cut.write_bytes(cut.read_bytes()[:1000])
    (corpus / "room0003" / ".partial-x.wav").write_bytes(b"half")
    audio.write(corpus / "room0004" / "room0004-1.wav", np.ones(9, np.float32), 16000)
    simulated, draw = [], shoebox.draw_room
    monkeypatch.setattr(shoebox, "draw_room", lambda how, number: simulated.append(number) or draw(how, number))
    shoebox.prepare(Path("data"), **options)
    assert simulated == [1, 2, 3, 4]
    assert contents(tmp_path) == before
    simulated.clear()
    shoebox.prepare(Path("data"), **options)
    assert simulated == []

    for change, made_again in (
        ({"num_rooms": 5}, [5]),
        ({"rt60_s": (0.2, 0.25)}, [1, 2, 3, 4]),
        ({"seed": 1}, [1, 2, 3, 4]),
    ):
        simulated.clear()
        shoebox.prepare(Path("data"), **{**options, **change})
        assert simulated == made_again


def test_rooms_of_another_prefix_leave_these_as_they_are(needs_pyroomacoustics, tmp_path):
    options = {"num_rooms": 3, "per_room": 1, "nj": 1, **SMALL}
    shoebox.prepare(tmp_path, **options)
    before = contents(tmp_path)
    folders = shoebox.prepare(tmp_path, prefix="rir_other_", **{**options, "rt60_s": (0.2, 0.25)})
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert all(check_set(folder)[0] == [] for folder in folders)


def test_a_run_with_other_settings_that_is_killed_leaves_no_set_of_the_old_rooms(
    needs_pyroomacoustics, tmp_path, monkeypatch
):
    options = {"num_rooms": 3, "per_room": 1, "nj": 1, **SMALL}
    (folder, *_) = shoebox.prepare(tmp_path, **options)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shoebox, "draw_room", killed)
    shoebox.prepare(tmp_path, **options)
    assert (folder / "wav.scp").exists()
    with pytest.raises(KeyboardInterrupt):
        shoebox.prepare(tmp_path, **options, seed=1)
    assert not (folder / "wav.scp").exists()


def test_rooms_do_not_depend_on_the_process_that_makes_them(needs_pyroomacoustics, tmp_path):
    settings = Settings(per_room=1, **SMALL)
    rows = [shoebox.make_room(number, settings, tmp_path / "here") for number in (1, 2)]
    assert parallel_map(partial(shoebox.make_room, settings=settings, corpus=tmp_path / "there"), [1, 2], 2, "") == rows
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_wrong_numbers_for_rooms_are_named(tmp_path):
    for message, options in {
        "--rt60_s 0.5 0.2: two numbers above 0, the lower one first": {"rt60_s": (0.5, 0.2)},
        "--size_m 1 5: two numbers above 1": {"size_m": (1, 5)},
        "--distance_m 0 1: ": {"distance_m": (0, 1)},
        "--num_rooms 0 ": {"num_rooms": 0},
        "--per_room 0: at least 1": {"per_room": 0},
        "--sample_rate 4000: 8000 to 48000": {"sample_rate": 4000},
    }.items():
        with pytest.raises(ValueError, match=message):
            shoebox.prepare(tmp_path, **options)
    with pytest.raises(
        ValueError, match=r"room 1: none of 200 draws .* other ranges than --rt60_s 0.05 0.06 --size_m 9 9"
    ):
        shoebox.draw_room(Settings(rt60_s=(0.05, 0.06), size_m=(9, 9)), 1)
    with pytest.raises(ValueError, match="place for its talkers 0.5 m from them"):
        shoebox.draw_room(Settings(size_m=(3, 4), distance_m=(8, 9)), 1)
    assert list(tmp_path.iterdir()) == []


def test_without_pyroomacoustics_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    with pytest.raises(ValueError, match=r"pip install -e \.\[sim\]"):
        shoebox.prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------------------------- together


@pytest.mark.parametrize("name", ("slr26", "slr28"))
def test_the_command_takes_what_the_function_takes(name, tmp_path):
    with pytest.raises(FileNotFoundError):
        prepare_main([name, "--root", str(tmp_path / "nowhere"), "--out", str(tmp_path / "data")])


def test_the_command_simulates(needs_pyroomacoustics, tmp_path, capsys):
    options = "--num_rooms 3 --per_room 1 --rt60_s 0.15 0.2 --size_m 3 4 --height_m 2.4 2.5 --distance_m 0.5 1 --nj 1"
    prepare_main(["shoebox", "--out", str(tmp_path / "data"), *options.split()])
    assert f"{tmp_path}/data/rir_train" in capsys.readouterr().out
