"""The packed store: the same utterances and samples as the plain files, through kills, changes and damage."""

import fcntl
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests import tiny
from tse_lib import audio
from tse_lib.bin.main import main
from tse_lib.data.dataset import DrawnMixtures
from tse_lib.data.pack import check, pack
from tse_lib.manifest import Utterance, by_speaker, read_data_dir, read_genders, read_tables, write_data_dir
from tse_lib.rng import rng
from tse_lib.simulation.sample import read_corpus
from tse_lib.store import PackedUtterances

RATE = 8000
SMALL = 12000  # bytes of a shard: an utterance or two
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def samples_of(name: str, length: int) -> np.ndarray:
    return rng(0, name).integers(-20000, 20000, length).astype(np.int16)


def utterance(folder: Path, name: str, length: int = 4000, rate: int = RATE, **values) -> Utterance:
    """An utterance of a 16-bit wav of its own; its activity is some pattern."""
    path = folder / "wav" / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples_of(name, length), rate, subtype="PCM_16")
    blocks = "".join(str(bit) for bit in rng(1, name).integers(0, 2, max(1, -(-10 * length // rate))))
    return Utterance(name, str(path), rate, length, **{"activity": blocks, "spk_id": name.split("-")[0], **values})


def utterances(folder: Path) -> list[Utterance]:
    """Ids whose bytewise order mixes the speakers, odd lengths, and two parts of one file."""
    whole = utterance(folder, "whole", 9001)
    parts = [
        Utterance("ann-3", whole.path, RATE, 5001, 0, "ann", "1" * 7),
        Utterance("émile-2", whole.path, RATE, 4000, 5001, "émile", "0110"),
    ]
    names = ("ann-1", "ann-2", "bob-1", "anna-bob-1", "émile-1", "Zoe-1", "bob-2")
    made = [utterance(folder, name, 3000 + 137 * number) for number, name in enumerate(names)]
    made[3] = utterance(folder, "anna-bob-1", 2000, spk_id="bob")
    return sorted([*made, *parts], key=lambda utt: utt.utt_id.encode())


@pytest.fixture
def folder(tmp_path):
    write_data_dir(tmp_path / "train", utterances(tmp_path), {"ann": "f", "bob": "m"})
    return tmp_path / "train"


def contents(folder: Path, pattern: str = "packed/*") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob(pattern))}


def wave_of(utt: Utterance) -> np.ndarray:
    return audio.read(utt.path, start=utt.start, num_samples=utt.num_samples)[0]


def assert_same(packed, plain) -> None:
    """The same utterances, but for where they lie, and the same samples."""

    def told(utt: Utterance) -> tuple:
        return utt.utt_id, utt.sample_rate, utt.num_samples, utt.spk_id, utt.activity, utt.group

    assert isinstance(packed, PackedUtterances)
    assert [told(utt) for utt in packed] == [told(utt) for utt in plain]
    for ours, theirs in zip(packed, plain, strict=True):
        np.testing.assert_array_equal(wave_of(ours), wave_of(theirs))


# ----------------------------------------------------------------------------------------------- the same as the files


def test_a_packed_set_has_the_utterances_and_samples_of_its_files(folder):
    plain = read_data_dir(folder)
    assert plain == read_tables(folder)
    pack(folder, shard_bytes=SMALL)
    packed = read_data_dir(folder)
    assert_same(packed, plain)
    assert read_tables(folder) == plain
    assert len(contents(folder, "packed/*.wav")) > 3
    assert by_speaker(packed) == by_speaker(plain)
    assert list(by_speaker(packed)) == ["Zoe", "ann", "bob", "émile"]
    assert by_speaker(packed)["bob"] == [by_id for by_id, utt in enumerate(plain) if utt.spk_id == "bob"]
    assert read_genders(folder) == {"ann": "f", "bob": "m"}


def test_it_is_a_sequence_of_utterances(folder):
    pack(folder)
    packed = read_data_dir(folder)
    listed = list(packed)
    assert packed == listed and listed == packed and packed == PackedUtterances(folder)
    assert packed != listed[1:] and packed != [*listed[1:], listed[0]] and packed != "text"
    assert packed[-1] == listed[-1] and packed[1:6:2] == listed[1:6:2] and packed[::-1] == listed[::-1]
    assert packed.index(listed[4]) == 4 and listed[2] in packed
    for place in (len(listed), -len(listed) - 1):
        with pytest.raises(IndexError):
            packed[place]
    assert packed.num_samples.tolist() == [utt.num_samples for utt in listed]


def test_noise_has_groups_and_no_speakers(tmp_path):
    noise = [
        utterance(tmp_path, f"rain-{number}", spk_id="", activity="", group=f"place{number // 2}")
        for number in range(4)
    ]
    write_data_dir(tmp_path / "noise", noise)
    pack(tmp_path / "noise")
    packed = read_data_dir(tmp_path / "noise")
    assert_same(packed, noise)
    assert by_speaker(packed) == {"": [0, 1, 2, 3]}


def test_any_tool_opens_a_shard_and_the_index(folder):
    pack(folder)
    sidecar = json.loads((folder / "packed" / "audio-00000.json").read_text("utf-8"))
    wave, rate = soundfile.read(folder / "packed" / "audio-00000.wav", dtype="int16")
    assert rate == RATE and wave.ndim == 1
    for copy in sidecar["utterances"]:
        path, start, length, _ = copy["source"]
        wanted, _ = soundfile.read(path, start=start, frames=length, dtype="int16")
        np.testing.assert_array_equal(wave[copy["start"] :][:length], wanted)
    numpy = pytest.importorskip("safetensors.numpy")
    columns = numpy.load_file(folder / "packed" / "index.safetensors")
    assert columns["num_samples"].tolist() == [utt.num_samples for utt in read_tables(folder)]


def test_other_formats_are_rounded_to_16_bits_and_channels_averaged(tmp_path, capsys):
    fine = rng(0, "fine").uniform(-1, 1, 4000)
    fine[:2] = 1.0, -1.0
    soundfile.write(tmp_path / "a.wav", fine, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "b.flac", fine * 0.5, RATE, subtype="PCM_24")
    stereo = np.stack([samples_of("left", 4000), samples_of("right", 4000)], 1)
    soundfile.write(tmp_path / "c.wav", stereo, RATE, subtype="PCM_16")
    names = ("a.wav", "b.flac", "c.wav")
    write_data_dir(tmp_path / "train", [Utterance(name[0], str(tmp_path / name), RATE, 4000) for name in names])
    pack(tmp_path / "train")
    told = capsys.readouterr().out
    assert "1 utterances have several channels" in told
    first, second, third = (wave_of(utt) for utt in read_data_dir(tmp_path / "train"))
    half_a_step = 2**-16 + 1e-7
    assert np.abs(first - fine.clip(max=32767 / 32768)).max() <= half_a_step
    assert np.abs(second - 0.5 * fine).max() <= half_a_step
    assert np.abs(third - stereo.mean(1) / 32768).max() <= half_a_step


def test_levels_stand_in_the_index(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE)
    waves = {"a": tone, "b": np.concatenate([tone, np.zeros(RATE)]), "c": np.zeros(RATE)}
    for name, wave in waves.items():
        soundfile.write(tmp_path / f"{name}.wav", wave, RATE, subtype="PCM_16")
    write_data_dir(
        tmp_path / "train",
        [Utterance(name, str(tmp_path / f"{name}.wav"), RATE, len(wave)) for name, wave in waves.items()],
    )
    pack(tmp_path / "train")
    packed = read_data_dir(tmp_path / "train")
    np.testing.assert_allclose(packed.peak_dbfs, [-6.02, -6.02, -200], atol=0.01)
    np.testing.assert_allclose(packed.active_dbfs, [-9.03, -9.03, -200], atol=0.01)  # the pause does not count


def test_resampled_once_instead_of_at_every_draw(tmp_path, capsys):
    rates = {"a": 8000, "b": 44100, "c": 16000}
    for name, rate in rates.items():
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
        soundfile.write(tmp_path / f"{name}.wav", tone, rate, subtype="PCM_16")
    square = np.where(np.arange(16000) % 40 < 20, 1.0, -1.0)
    soundfile.write(tmp_path / "d.wav", square, 16000, subtype="FLOAT")
    lengths = {**rates, "d": 16000}
    plain = [Utterance(name, str(tmp_path / f"{name}.wav"), rate, rate, spk_id="x") for name, rate in lengths.items()]
    write_data_dir(tmp_path / "train", plain)
    pack(tmp_path / "train", sample_rate=RATE)
    assert "1 utterances rose above full scale when they were resampled" in capsys.readouterr().out
    packed = read_data_dir(tmp_path / "train")
    assert [(utt.sample_rate, utt.num_samples) for utt in packed] == [(RATE, RATE)] * 4
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    for utt in packed[:3]:
        assert np.abs(wave_of(utt) - wanted)[200:-200].max() < 1e-3
    with pytest.raises(ValueError, match="packed: was packed at 8000 Hz; remove it to pack at --sample_rate 16000"):
        pack(tmp_path / "train", sample_rate=16000)
    pack(tmp_path / "train")  # the rate stays
    assert {utt.sample_rate for utt in read_data_dir(tmp_path / "train")} == {RATE}


def test_each_sample_rate_has_its_own_shards(tmp_path):
    plain = [utterance(tmp_path, f"a-{number}", 500, (8000, 16000)[number % 2]) for number in range(6)]
    write_data_dir(tmp_path / "train", plain)
    pack(tmp_path / "train")
    packed = read_data_dir(tmp_path / "train")
    assert_same(packed, plain)
    assert {(audio.info(utt.path).sample_rate, utt.path[-6:]) for utt in packed} == {
        (8000, "00.wav"),
        (16000, "01.wav"),
    }


def test_training_mixtures_are_those_of_the_plain_files(corpus_dir, tmp_path):
    """The same draws, and up to the rounding to 16 bits the same samples; reopened as a worker would."""
    for name in ("train", "noise"):
        shutil.copytree(corpus_dir / name, tmp_path / name)
        pack(tmp_path / name, shard_bytes=SMALL)
    for index in range(3):
        plain, packed = (
            pickle.loads(pickle.dumps(DrawnMixtures(read_corpus(data / "train", data / "noise"), tiny.conf_of())))
            for data in (corpus_dir, tmp_path)
        )
        assert isinstance(packed.corpus.speech, PackedUtterances)
        ours, theirs = packed.mixture(index), plain.mixture(index)
        assert [talker.utt_id for talker in ours.talkers] == [talker.utt_id for talker in theirs.talkers]
        np.testing.assert_allclose(packed[index]["mixture"], plain[index]["mixture"], atol=2**-12)


# ------------------------------------------------------------------------------------------------------- again and on


def test_the_number_of_processes_changes_no_byte(folder):
    made = []
    for nj in (1, 2):
        shutil.rmtree(folder / "packed", ignore_errors=True)
        pack(folder, nj, shard_bytes=SMALL)
        made.append(contents(folder))
    assert made[0] == made[1]
    pack(folder, shard_bytes=SMALL)  # and once more there is nothing to do
    assert contents(folder) == made[0]


KILLED = """
import os, signal, sys
from pathlib import Path
from tse_lib.data import pack

whole = pack.audio.read
def read(path, **part):
    if path.endswith("bob-1.wav"):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(path, **part)

pack.audio.read = read
pack.pack(Path(sys.argv[1]), shard_bytes=int(sys.argv[2]))
"""


def test_a_killed_run_goes_on_after_its_last_whole_shard(folder):
    pack(folder, shard_bytes=SMALL)
    wanted = contents(folder)
    shutil.rmtree(folder / "packed")
    ended = subprocess.run([sys.executable, "-c", KILLED, folder, str(SMALL)], check=False)
    assert ended.returncode == -signal.SIGKILL
    left = contents(folder, "packed/*") | contents(folder, "packed/.partial-*")
    assert any(name.startswith(".partial-") for name in left) and "index.safetensors" not in left
    assert 0 < sum(name.endswith(".json") for name in left) < sum(name.endswith(".json") for name in wanted)
    assert isinstance(read_data_dir(folder), list)  # the plain files still
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("packed/*.json")}
    pack(folder, shard_bytes=SMALL)
    assert contents(folder) | contents(folder, "packed/.partial-*") == wanted
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())


def test_shards_of_an_interrupted_run_on_other_tables_are_not_taken(folder, tmp_path, monkeypatch):
    whole = audio.read

    def interrupted(path, **part):
        if path.endswith("bob-1.wav"):
            raise KeyboardInterrupt
        return whole(path, **part)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(audio, "read", interrupted)
        pack(folder, shard_bytes=SMALL)
    assert contents(folder, "packed/*.json")
    (tmp_path / "other.wav").write_bytes((tmp_path / "wav" / "bob-2.wav").read_bytes())
    plain = read_tables(folder)
    plain[0] = Utterance(plain[0].utt_id, str(tmp_path / "other.wav"), RATE, 3000, 5, "Zoe", "1111")
    write_data_dir(folder, plain)
    pack(folder, shard_bytes=SMALL)
    assert_same(read_data_dir(folder), plain)


def test_new_utterances_make_new_shards_and_gone_ones_leave_the_index(folder, tmp_path, capsys):
    plain = read_tables(folder)
    pack(folder, shard_bytes=SMALL)
    before = contents(folder, "packed/audio*")
    changed = utterance(tmp_path / "other", plain[1].utt_id, 2222, spk_id="eve")
    more = [utterance(tmp_path, "Ada-1"), utterance(tmp_path, "zed-1"), changed]
    now = sorted([*plain[2:], *more], key=lambda utt: utt.utt_id.encode())
    write_data_dir(folder, now)
    with pytest.raises(ValueError, match="train changed since it was packed; run tse pack"):
        read_data_dir(folder)
    capsys.readouterr()
    pack(folder, shard_bytes=SMALL)
    told = capsys.readouterr().out
    assert "2 utterances in old shards are no longer in the tables" in told and "3 of them new" in told
    assert_same(read_data_dir(folder), now)
    assert by_speaker(read_data_dir(folder)) == by_speaker(now)
    after = contents(folder, "packed/audio*")
    assert before.items() <= after.items() and len(after) > len(before)


def test_tables_that_say_more_of_the_same_audio_copy_nothing(folder, capsys):
    pack(folder)
    before = contents(folder, "packed/audio*")
    plain = [Utterance(utt.utt_id, utt.path, RATE, utt.num_samples, utt.start, "one") for utt in read_tables(folder)]
    write_data_dir(folder, plain)
    pack(folder)
    assert_same(read_data_dir(folder), plain)
    assert contents(folder, "packed/audio*") == before
    assert "0 of them new" in capsys.readouterr().out


def test_a_copied_set_is_not_stale(folder, tmp_path):
    pack(folder)
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").iterdir():
        os.utime(path, (1, 1))
    copied = read_data_dir(tmp_path / "copy")
    assert copied[0].path == str(tmp_path / "copy" / "packed" / "audio-00000.wav")
    assert_same(copied, read_tables(folder))


@pytest.mark.parametrize("table", ["utt2activity", "utt2group", "spk2gender"])
def test_which_tables_make_it_stale(folder, table):
    pack(folder)
    (folder / table).write_text("ann f\n")
    if table == "spk2gender":  # read from the table itself
        assert len(read_data_dir(folder)) == 9
    else:
        with pytest.raises(ValueError, match=r"packed: the tables of .*train changed"):
            read_data_dir(folder)


def test_two_at_once_are_refused(folder):
    pack(folder)
    handle = os.open(folder / "packed", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(OSError, match="packed: another tse pack writes here"):
        pack(folder)
    os.close(handle)
    pack(folder)


# -------------------------------------------------------------------------------------------------------------- faults


def spoil(folder: Path, tmp_path: Path) -> list[Utterance]:
    """Three files that cannot be packed."""
    plain = read_tables(folder)
    path = {utt.utt_id: Path(utt.path) for utt in plain}
    soundfile.write(path["ann-1"], np.full(3000, 1.5), RATE, subtype="FLOAT")
    soundfile.write(path["bob-2"], np.full(4000, np.nan), RATE, subtype="FLOAT")
    path["Zoe-1"].write_bytes(path["Zoe-1"].read_bytes()[:1000])
    return [utt for utt in plain if utt.utt_id not in ("ann-1", "bob-2", "Zoe-1")]


def test_all_faults_are_told_together_or_left_out(folder, tmp_path):
    good = spoil(folder, tmp_path)
    with pytest.raises(ValueError) as told:
        pack(folder, shard_bytes=SMALL)
    for text in (
        "3 utterances cannot be packed (--skip_bad goes on without them)",
        "ann-1.wav: peak 1.500 is above full scale",
        "bob-2.wav: holds NaN",
        "Zoe-1.wav: truncated, 1000 of",
    ):
        assert text in str(told.value)
    assert isinstance(read_data_dir(folder), list)
    pack(folder, skip_bad=True, shard_bytes=SMALL)
    assert_same(read_data_dir(folder), good)
    left_out = (folder / "packed" / "left_out.txt").read_text("utf-8").splitlines()
    assert [line.split()[0] for line in left_out] == ["Zoe-1", "ann-1", "bob-2"]
    check(folder)


def test_what_was_left_out_is_packed_once_it_is_well(folder, tmp_path):
    spoil(folder, tmp_path)
    pack(folder, skip_bad=True)
    with pytest.raises(ValueError, match="3 utterances cannot be packed"):
        pack(folder)
    utterances(tmp_path)  # all files are as they were
    pack(folder)
    assert_same(read_data_dir(folder), read_tables(folder))
    assert not (folder / "packed" / "left_out.txt").exists()


def test_nothing_to_pack_is_said(folder):
    for utt in read_tables(folder):
        Path(utt.path).write_bytes(b"")
    with pytest.raises(ValueError, match="train: no utterance is left, all 9 are faulty"):
        pack(folder, skip_bad=True)
    with pytest.raises(FileNotFoundError, match="no data set here"):
        pack(folder / "nowhere")


def test_what_no_wav_can_hold_is_told_before_it_is_read(tmp_path):
    write_data_dir(tmp_path / "train", [Utterance("a-1", "long.flac", 48000, 2**30 + 1)])
    with pytest.raises(ValueError, match="long.flac: 6.2 h at 48000 Hz, a wav holds 2 GiB at most; cut it"):
        pack(tmp_path / "train")


def test_a_table_of_another_rate_than_its_file_is_told(tmp_path):
    made = utterance(tmp_path, "a-1")
    write_data_dir(tmp_path / "train", [Utterance("a-1", made.path, 16000, 4000)])
    with pytest.raises(ValueError, match="a-1.wav: has 8000 Hz, its table says 16000"):
        pack(tmp_path / "train")


@pytest.mark.parametrize("name", ["audio-00001.wav", "audio-00001.json", "index.safetensors"])
def test_a_flipped_bit_is_found_and_named(folder, name):
    pack(folder, shard_bytes=SMALL)
    check(folder)
    path = folder / "packed" / name
    data = bytearray(path.read_bytes())
    data[len(data) - 50] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"packed/{name}: .*checksum") as told:
        check(folder)
    assert "audio-00000" not in str(told.value) and f"tse pack {folder}" in str(told.value)
    path.unlink()  # the way out that it told
    pack(folder, shard_bytes=SMALL)
    check(folder)
    assert_same(read_data_dir(folder), read_tables(folder))


def test_a_lost_or_cut_shard_is_told_when_the_set_is_opened(folder):
    pack(folder, shard_bytes=SMALL)
    path = Path(read_data_dir(folder)[3].path)
    lost = [utt.utt_id for utt in read_data_dir(folder) if utt.path == str(path)]
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    more = f"it holds '{lost[0]}' and {len(lost) - 1} more utterances; tse pack .* packs them again"
    with pytest.raises(ValueError, match=rf"{path.name}: {len(whole) - 100} bytes instead of {len(whole)}; {more}"):
        read_data_dir(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{path.name}: missing; {more}"):
        read_data_dir(folder)
    pack(folder, shard_bytes=SMALL)
    assert_same(read_data_dir(folder), read_tables(folder))
    assert not path.exists()


@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_a_cut_index_is_told(folder, size):
    pack(folder)
    path = folder / "packed" / "index.safetensors"
    os.truncate(path, size % path.stat().st_size)
    with pytest.raises(ValueError, match=r"index.safetensors: cannot be used \(.+\); remove it and run tse pack"):
        read_data_dir(folder)


def test_a_flipped_bit_in_the_name_of_a_column_is_told(folder):
    pack(folder)
    path = folder / "packed" / "index.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"num_samples"', b'"num_samplds"'))
    with pytest.raises(ValueError, match="columns num_samplds, num_samples missing or unknown.*; remove it and run"):
        read_data_dir(folder)


def test_an_index_does_not_lead_out_of_its_folder(folder):
    pack(folder)
    path = folder / "packed" / "index.safetensors"
    path.write_bytes(path.read_bytes().replace(b"audio-00000", b"../../x.wav"))
    with pytest.raises(ValueError, match="'../../x.wav' is no name of a shard"):
        read_data_dir(folder)


# ------------------------------------------------------------------------------------------------------------ processes


def test_it_is_pickled_as_its_folder_and_read_on_after_a_fork(folder):
    pack(folder)
    packed = read_data_dir(folder)
    assert len(pickle.dumps(packed)) < 200 + len(str(folder))
    assert pickle.loads(pickle.dumps(packed)) == packed
    listed, speakers = list(packed), dict(by_speaker(packed))
    child = os.fork()
    if child == 0:
        good = packed == listed and by_speaker(packed) == speakers and wave_of(packed[8]).any()
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0


# --------------------------------------------------------------------------------------------------------- the command


def test_the_command(folder, capsys):
    assert main(["pack", str(folder), "--nj", "1"]) == 0
    assert "packed: 9 utterances, 9 of them new, 1 shards, 0.1 MB" in capsys.readouterr().out
    assert main(["pack", str(folder), "--check", "--nj", "1"]) == 0
    assert "packed: ok, 1 shards, 9 utterances" in capsys.readouterr().out
    assert main(["pack", str(folder / "none")]) == 3
    assert main(["pack", "--check", str(folder.parent)]) == 3
    assert "run tse pack" in capsys.readouterr().err
    assert main(["pack", str(folder), "--sample_rate", "0"]) == 4


@pytest.mark.skipif(not (SHARED / "noise").is_dir(), reason="the real recordings are not beside this checkout")
def test_real_recordings_keep_their_samples(tmp_path):
    paths = sorted((SHARED / "librispeech_mini" / "test-other").rglob("*.flac"))[:6]
    plain = [Utterance(f"a-{path.stem}", str(path), *audio.info(path)[:2]) for path in paths]
    write_data_dir(tmp_path / "train", plain)
    pack(tmp_path / "train")
    assert_same(read_data_dir(tmp_path / "train"), plain)
