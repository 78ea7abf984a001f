"""Mixtures of stems from the corpora to batches: drawn as text, the same wherever they are drawn, and exact sums."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import fake_drums, tiny
from tse_lib import audio
from tse_lib.bin.main import main
from tse_lib.bin.render import write_rendered
from tse_lib.config import Config, Sets, Stems, build
from tse_lib.corpora import drums
from tse_lib.corpora import stems as tracks_of
from tse_lib.data import stems as stems_data
from tse_lib.data.dataset import RenderedMixtures, collate
from tse_lib.data.stems import StemMixtures, load_clip, load_stems
from tse_lib.manifest import Clip, Mixture, Stem, read_mixtures, read_stems, write_mixtures
from tse_lib.simulation.stems import NOTES, read_stem_corpus, render_stems, sample_stems, stem_set

pytest.importorskip("mido")
STEMS, RATE = fake_drums.STEMS, fake_drums.RATE
DRUMS = Path(__file__).resolve().parents[2] / "shared" / "data" / "drums"
SIMULATION = {"stems": list(STEMS), "segment_s": 1.0, "peak_dbfs": [-12, -1]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """data/{train,dev,test} of performances, tracks_{train,test} of tracks; read only."""
    top = tmp_path_factory.mktemp("stems")
    drums.prepare(fake_drums.make(top / "drums"), top / "data", nj=1)
    tracks_of.prepare(fake_drums.make_tracks(top / "tracks"), top / "data", prefix="tracks_", nj=1)
    return top / "data"


def conf_of(**simulation) -> Stems:
    return build(Stems, {**SIMULATION, **simulation}, "simulation")


def drawn(data, index=0, sets=("train",), seed=0, **simulation) -> Mixture:
    conf = conf_of(**simulation)
    corpus = read_stem_corpus([data / name for name in sets], conf, RATE)
    return sample_stems(corpus, conf, RATE, seed, "train", f"train-{index}")


def experiment(**changes) -> Config:
    wanted = tiny.values()
    wanted["simulation"] = {**SIMULATION, **changes.pop("simulation", {})}
    wanted["sample_rate"] = RATE
    wanted["model"] = {"name": "tfc_tdf", "params": {
        "n_fft": 256, "hop_length": 64, "dim_f": 128, "num_channels": 4, "growth": 2, "num_scales": 2,
        "num_blocks_per_scale": 1, "num_subbands": 2, "num_sources": len(STEMS),
    }}  # fmt: skip
    wanted["loss"] = [{"name": "neg_snr_or_silence", "weight": 1.0}]
    wanted["train"].update(changes.pop("train", {}))
    return build(Config, {**wanted, **changes}, "conf")


# ------------------------------------------------------------------------------------------------------------- corpora


def test_hits_and_performances_are_in_one_set_each(data):
    sets = {name: read_stems(data / name) for name in ("train", "dev", "test")}
    assert [len(one.performances) for one in sets.values()] == [3, 1, 2]
    shots = [{hit.path for hit in one.oneshots} for one in sets.values()]
    assert [len(one) for one in shots] == [18, 9, 9] and not (
        shots[0] & shots[1] | shots[0] & shots[2] | shots[1] & shots[2]
    )
    plays = [play.perf_id for one in sets.values() for play in one.performances]
    assert len(set(plays)) == 6
    play = sets["train"].performances[1]
    assert len(play.hits) == 5 * len(fake_drums.BAR) and play.hits[3] == (0.5, 38, 30)
    assert play.hits[8] == (1.0, 36, 40)


def test_a_corpus_without_development_set_and_sessions_gives_a_tenth(tmp_path):
    root = fake_drums.make_shots(tmp_path)
    fake_drums.make_midi(root / "gmd_midi", {"train": 12, "test": 1}, flat=True)
    drums.prepare(root, tmp_path / "data", nj=1)
    counts = {name: len(read_stems(tmp_path / "data" / name).performances) for name in ("train", "dev", "test")}
    assert counts == {"train": 11, "dev": 1, "test": 1}


def test_a_drum_with_few_hits_is_in_all_sets(tmp_path, capsys):
    root = fake_drums.make(tmp_path)
    lines = (root / "oneshots.csv").read_text().splitlines()
    (root / "oneshots.csv").write_text("\n".join(line for line in lines if "Kick1_4" not in line) + "\n")
    drums.prepare(root, tmp_path / "data", nj=1)
    assert "3 of 35 one-shots are in all sets" in capsys.readouterr().out
    for name in ("train", "dev", "test"):
        assert sum(hit.stem == "kick" for hit in read_stems(tmp_path / "data" / name).oneshots) == 3


def test_all_faults_of_a_drum_corpus_are_told_at_once(tmp_path):
    root = fake_drums.make(tmp_path)
    table = (root / "oneshots.csv").read_text()
    table = table.replace("shots/kick/Kick1_1.wav,kick", "shots/kick/Kick1_1.wav,bass").replace("Tom1,2", "Tom1,loud")
    (root / "oneshots.csv").write_text(table + "../../elsewhere.wav,kick,Kick1,9\n")
    (root / "shots/snare/Snare1_2.wav").write_bytes(b"")
    (root / "gmd_midi/drummer1/session_test/1_funk_120_beat_4-4.mid").unlink()
    (root / "gmd_midi/drummer1/session_train/0_funk_120_beat_4-4.mid").write_bytes(b"MThd no")
    with pytest.raises(ValueError) as told:
        drums.prepare(root, tmp_path / "data", nj=1)
    for fault in ("stem 'bass' is none of", "velocity_rank 'loud'", "Snare1_2.wav: empty", "leads out of",
                  "1_funk_120_beat_4-4.mid is not there", "not a MIDI file"):  # fmt: skip
        assert fault in str(told.value)
    assert not (tmp_path / "data").exists()
    drums.prepare(root, tmp_path / "data", skip_bad=True, nj=1)
    assert len(read_stems(tmp_path / "data" / "train").performances) == 2


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (9, b"\2"),  # tracks that do not belong together
        (12, b"\0\0"),  # no ticks to a beat
        (12, b"\xe7\x28"),  # frames of a video
        (22, b"\0\xff\x59\2\x25\0"),  # a key of 37 sharps
    ],
)
def test_midi_that_makes_no_sense_is_no_midi(tmp_path, place, change):
    path = tmp_path / "play.mid"
    fake_drums.write_midi(path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + change + whole[place + len(change) :])
    with pytest.raises(ValueError, match="play.mid: not a MIDI file that can be read"):
        list(drums.read_hits(path))


def test_tracks_are_read_with_the_files_of_their_stems(data):
    first, second = read_stems(data / "tracks_train").tracks
    assert [len(files) for files in first.stems.values()] == [1, 1, 2, 2, 1] and tuple(first.stems) == STEMS
    assert "1" in first.activity["toms"] and "1" not in second.activity["toms"]
    ids = [track.track_id for name in ("train", "test") for track in read_stems(data / f"tracks_{name}").tracks]
    assert ids == ["train0", "train1", "test0", "test1"]


def test_a_track_that_is_in_two_sets_is_refused(tmp_path):
    tracks = fake_drums.make_tracks(tmp_path / "tracks", splits=("train",), count=1, seconds=0.3)
    shutil.copytree(tracks / "train", tracks / "test")
    with pytest.raises(ValueError, match="two tracks would both be train0"):
        tracks_of.prepare(tracks, tmp_path / "data", nj=1)


def test_tracks_without_folders_of_splits_are_dealt_out_whole(tmp_path):
    fake_drums.make_tracks(tmp_path / "tracks", splits=("a", "b", "c"), count=4, seconds=0.3)
    tracks_of.prepare(tmp_path / "tracks", tmp_path / "data", shares=(0.5, 0.25, 0.25), nj=1)
    ids = [
        {track.track_id for track in read_stems(tmp_path / "data" / name).tracks} for name in ("train", "dev", "test")
    ]
    assert [len(one) for one in ids] == [6, 3, 3] and len(set.union(*ids)) == 12


@pytest.mark.parametrize("other", ("Test", "extras"))
def test_a_folder_beside_those_of_splits_does_not_undo_them(tmp_path, other):
    root = fake_drums.make_tracks(tmp_path / "tracks", splits=("train", "test", other), count=1, seconds=0.3)
    with pytest.raises(ValueError, match=f"{other}0: lies in none of the folders train, "):
        tracks_of.prepare(root, tmp_path / "data", nj=1)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("stems", "fault"),
    [
        (["kick", "kick"], "there twice"),
        (["kick=a+"], "expected"),
        (["kick=a", "snare=a"], "in two stems"),
        (["kick", "clap"], "no file of stem clap"),
    ],
)
def test_stems_that_cannot_be_made_are_refused(tmp_path, stems, fault):
    fake_drums.make_tracks(tmp_path / "tracks", splits=("train",), count=1, seconds=0.3)
    with pytest.raises(ValueError, match=fault):
        tracks_of.prepare(tmp_path / "tracks", tmp_path / "data", stems=stems, nj=1)


def test_uneven_tracks_are_refused(tmp_path):
    root = fake_drums.make_tracks(tmp_path / "tracks", splits=("train",), count=2, seconds=0.5)
    audio.write(root / "train/train0/kick.wav", np.ones((2, RATE), np.float32) * 0.1, RATE)
    audio.write(root / "train/train1/kick.wav", np.ones((2, RATE), np.float32) * 0.1, 2 * RATE)
    with pytest.raises(ValueError, match=r"2 files cannot be used[\s\S]*one length is wanted[\s\S]*one rate is wanted"):
        tracks_of.prepare(root, tmp_path / "data", nj=1)


# ------------------------------------------------------------------------------------------------------------- drawing


def test_a_mixture_is_its_names_function_and_text(data):
    mixture = drawn(data, swap_probability=0.5, speed=[0.9, 1.1], gain_db=[-6, 6], invert_probability=0.5)
    assert Mixture.from_json(mixture.to_json()) == mixture
    again = drawn(data, swap_probability=0.5, speed=[0.9, 1.1], gain_db=[-6, 6], invert_probability=0.5)
    assert again == mixture and drawn(data, 1) != drawn(data, 0) and mixture.source_names == STEMS
    moved = drawn(data, swap_probability=0.5, speed=[0.9, 1.1], gain_db=[-6, 6], channel_swap_probability=1.0)
    assert [stem.clips for stem in moved.stems] == [stem.clips for stem in mixture.stems]  # one knob moves no other


def test_hits_are_where_the_performance_has_them(data):
    """Every onset of the text is one of the performance's, and the louder a hit, the higher its rank."""
    mixture = drawn(data, rank_spread=0, dynamics_db=0)
    (play,) = [one for one in read_stems(data / "train").performances if one.perf_id == mixture.stems[0].origin]
    (snare,) = [stem for stem in mixture.stems if stem.name == "snare"]
    times = [time for time, note, _ in play.hits if note == 38]
    begin = times[0] - snare.clips[0].at / RATE
    shifts = [
        min(abs(clip.at / RATE + begin - time - whole) for time in times for whole in range(-4, 5))
        for clip in snare.clips
    ]
    assert max(shifts) < 1 / RATE
    assert all(clip.gain_db == 0 and "shots/snare" in clip.path for clip in snare.clips)


def test_a_louder_hit_has_a_higher_rank_and_more_gain_between_ranks(data):
    softest, loudest = (drawn_velocity(data, velocity) for velocity in (1, 127))
    assert {clip.path[-5] for clip in softest} == {"1"} and {clip.path[-5] for clip in loudest} == {"3"}
    assert softest[0].gain_db == pytest.approx(30 * (2 / 127 - 0.5) / 2, abs=1e-3)  # of two ranks: ±7.5 dB around each
    assert loudest[0].gain_db == pytest.approx(30 * (2 - 0.5 - 1) / 2, abs=1e-3)


def drawn_velocity(data, velocity):
    conf = conf_of(rank_spread=0, stems=["kick"])
    corpus = read_stem_corpus([data / "train"], conf, RATE)
    plays = [
        type(play)(play.perf_id, play.path, play.seconds, tuple((time, note, velocity) for time, note, _ in play.hits))
        for play in corpus.performances
    ]
    same = type(corpus)(plays, corpus.oneshots, ())
    return sample_stems(same, conf, RATE, 0, "train", "train-0").stems[0].clips


def test_an_open_hihat_ends_when_it_is_closed(data):
    found = [clip for index in range(6) for clip in drawn(data, index).stems[3].clips if "Open" in clip.path]
    assert found and all(clip.num_samples == round(0.27 * RATE) or clip.num_samples == RATE // 4 for clip in found)
    assert [clip for clip in found if clip.fade_s] or all(clip.num_samples == RATE // 4 for clip in found)


def test_a_damped_hit_fades_and_is_cut():
    shot = torch.ones(1, 1000)
    clip = Clip("hit.wav", 0, 1000, at=0, fade_s=0.05)
    mixture = Mixture("m", RATE, 2000, True, (), (), stems=(Stem("hihat", "p", (clip,)),), num_channels=1)
    wave = render_stems(mixture, lambda clip: shot * 0.5).targets[0, 0]
    assert wave[0] == 0.5 and wave[599] == 0.5 and 0 <= wave[999] < 1e-4 and (wave[600:1000].diff() <= 0).all()
    assert not wave[1000:].any()


def test_a_bell_is_no_ride_and_the_same_ride_all_the_time(data):
    paths = {clip.path for index in range(8) for clip in drawn(data, index).stems[4].clips}
    assert paths and all("RideR_" in path for path in paths)  # the bar plays the ride's bow (51) only


def test_exchanged_stems_come_from_elsewhere_and_are_heard(data):
    mixture = drawn(data, swap_probability=1.0, sets=("train", "tracks_train"))
    base = drawn(data, swap_probability=0.0, sets=("train", "tracks_train")).stems[0].origin
    assert base not in {stem.origin for stem in mixture.stems}
    assert all(stem.clips for stem in mixture.stems)
    assert all(stem == Stem(stem.name, "") for stem in drawn(data, drop_probability=1.0).stems)


def test_the_conf_names_what_is_wrong():
    for change, fault in (
        ({"stems": []}, "stems"),
        ({"stems": ["kick", "kick"]}, "one name each"),
        ({"stems": ["mixture"]}, "would not do"),
        ({"stems": ["a/b"]}, "would not do"),
        ({"segment_s": 0}, "above 0"),
        ({"pan": [-2, 0]}, "pan"),
        ({"peak_dbfs": [0, 3]}, "full scale"),
        ({"stemss": 1}, "did you mean 'stems'"),
    ):
        with pytest.raises(ValueError, match=fault):
            conf_of(**change)


def test_sets_of_stems_say_where_from(data):
    def sets_of(**one):
        return build(Sets, {"seed": 1, "sample_rate": RATE, "sets": {"dev": {"simulation": SIMULATION, **one}}}, "sets")

    for one, fault in (
        ({"num_mixtures": 2}, "'tracks' is missing"),
        ({"num_mixtures": 2, "speech": "dev"}, "'tracks' is missing"),
        ({"num_mixtures": 2, "tracks": "dev", "noise": "n"}, "noise"),
        ({"tracks": "dev"}, "num_mixtures"),
        ({"tracks": "dev", "num_mixtures": 2, "simulation": {**SIMULATION, "whole": True}}, "num_mixtures"),
    ):
        with pytest.raises(ValueError, match=fault):
            sets_of(**one)
    with pytest.raises(ValueError, match="has performances only"):
        stem_set(data, "dev", sets_of(tracks="dev", simulation={**SIMULATION, "whole": True}))
    with pytest.raises(ValueError, match="no stem 'bass'"):
        stem_set(data, "dev", sets_of(tracks="tracks_test", num_mixtures=1, simulation={"stems": ["bass"]}))


# ----------------------------------------------------------------------------------------------------------- rendering


def test_the_mixture_is_exactly_the_sum_of_its_stems(data):
    batch = collate([StemMixtures(corpus_of(data), experiment())[index] for index in range(3)])
    assert batch["mixture"].shape == (3, 2, RATE) and batch["target"].shape == (3, 5, 2, RATE)
    assert torch.equal(batch["mixture"], batch["target"].sum(1)) and batch["present"].all()
    peaks = batch["mixture"].abs().flatten(1).amax(1)
    assert (peaks <= 10 ** (-1 / 20) + 1e-3).all() and (peaks >= 10 ** (-12 / 20) - 1e-3).all()


def corpus_of(data, *sets):
    return read_stem_corpus([data / name for name in sets or ("train",)], conf_of(), RATE)


def test_gain_polarity_channels_and_pan():
    waves = {"stereo.wav": torch.tensor([[0.1, 0.2], [0.3, 0.4]]), "mono.wav": torch.tensor([[0.2, 0.1]])}
    stems = (
        Stem("a", "t", (Clip("stereo.wav", 0, 2, at=1, gain_db=20 * math.log10(2)),), invert=True),
        Stem("b", "t", (Clip("stereo.wav", 0, 2, at=-1),), gain_db=-20 * math.log10(2), swap_channels=True),
        Stem("c", "t", (Clip("mono.wav", 0, 2), Clip("mono.wav", 0, 2, pan=-1))),
        Stem("d", ""),
    )
    mixture = Mixture("m", RATE, 3, True, (), (), stems=stems, num_channels=2)
    a, b, c, d = render_stems(mixture, lambda clip: waves[clip.path]).targets
    close = lambda x, y: torch.testing.assert_close(x, torch.tensor(y), atol=1e-6, rtol=0)  # noqa: E731
    close(a, [[0.0, -0.2, -0.4], [0.0, -0.6, -0.8]])
    close(b, [[0.2, 0, 0], [0.1, 0, 0]])
    close(c, [[0.2 + 0.2 * 2**0.5, 0.1 + 0.1 * 2**0.5, 0], [0.2, 0.1, 0]])
    assert not d.any()


def test_what_would_be_above_full_scale_is_turned_down_together():
    stem = Stem("a", "t", (Clip("x", 0, 2),))
    mixture = Mixture("m", RATE, 2, True, (), (), stems=(stem, stem), num_channels=1)
    rendered = render_stems(mixture, lambda clip: torch.tensor([[0.9, 0.3]]))
    assert rendered.mixture.abs().max() <= 1 and torch.equal(rendered.targets[0], rendered.targets[1])
    assert rendered.mixture[0, 0] > 0.999


def test_rounded_stems_do_not_add_up_to_more_than_full_scale():
    draws = torch.Generator().manual_seed(0)
    waves = list(torch.rand(3, 1, 20000, generator=draws) * 0.5)
    waves.append(1.1 - sum(waves))  # as of a limited recording: the sum is at its peak all the time
    stems = tuple(Stem(str(number), "t", (Clip(str(number), 0, 20000),)) for number in range(4))
    mixture = Mixture("m", RATE, 20000, True, (), (), stems=stems, num_channels=1)
    rendered = render_stems(mixture, lambda clip: waves[int(clip.path)])
    assert 0.999 < rendered.mixture.abs().max() < 1  # else a flac cannot hold it


def test_mono_one_shots_make_stereo_mixtures(tmp_path):
    drums.prepare(fake_drums.make(tmp_path / "drums", channels=1), tmp_path / "data", nj=1)
    conf = experiment(simulation={"pan": [-1, 1]})
    item = StemMixtures(read_stem_corpus([tmp_path / "data" / "train"], conf.simulation, RATE), conf)[0]
    assert item["mixture"].shape == (2, RATE) and not torch.equal(item["mixture"][0], item["mixture"][1])


# --------------------------------------------------------------------------------------------------------------- items


def test_offline_on_the_fly_and_in_any_order_the_same(data, tmp_path):
    conf, corpus = experiment(), corpus_of(data)
    first, second = StemMixtures(corpus, conf), StemMixtures(corpus_of(data), conf)
    forwards = [first[index] for index in range(4)]
    backwards = [second[index] for index in (3, 2, 1, 0)][::-1]
    assert all(torch.equal(a["target"], b["target"]) for a, b in zip(forwards, backwards, strict=True))
    write_mixtures(tmp_path / "set" / "mixtures.jsonl", [first.mixture(index) for index in range(2)])
    for mixture in read_mixtures(tmp_path / "set" / "mixtures.jsonl"):
        write_rendered(str(tmp_path / "set"), mixture)
    rendered = RenderedMixtures(str(tmp_path / "set"), RATE)
    for index in range(2):
        torch.testing.assert_close(rendered[index]["target"], forwards[index]["target"], atol=2e-7, rtol=0)
        torch.testing.assert_close(rendered[index]["mixture"], forwards[index]["mixture"], atol=2e-7, rtol=0)
    rendered.refuse_other_task("separate", 5, STEMS)
    for names, fault in ((STEMS[::-1], "has the stems kick"), ((), "no names")):
        with pytest.raises(ValueError, match=fault):
            rendered.refuse_other_task("separate", 5, names)
    with pytest.raises(ValueError, match="has 5 stems, the model 4 outputs"):
        rendered.refuse_other_task("separate", 4, STEMS[:4])


def test_a_file_that_vanished_is_drawn_anew_and_told(data, tmp_path):
    corpus = corpus_of(data, "train")
    broken = [type(hit)(**{**vars(hit), "path": str(tmp_path / "gone.wav")}) if hit.stem == "kick" else hit
              for hit in corpus.oneshots]  # fmt: skip
    with pytest.raises(ValueError, match=r"train-0: 10 draws in a row cannot be used; .*gone\.wav"):
        StemMixtures(type(corpus)(corpus.performances, broken, ()), experiment())[0]


def test_simulate_and_render_make_the_sets(data, tmp_path, capsys):
    conf = tmp_path / "sets.yaml"
    one = {"simulation": SIMULATION, "num_mixtures": 2}
    whole = {"tracks": "tracks_test", "simulation": {"stems": list(STEMS), "whole": True}}
    sets = {"dev": {**one, "tracks": "dev"}, "clips": whole}
    conf.write_text(json.dumps({"seed": 1, "sample_rate": RATE, "sets": sets}))
    for name in ("dev", "tracks_test"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for table in (data / name).glob("*.jsonl"):
            (tmp_path / "data" / name / table.name).write_text(table.read_text())
    assert main(["simulate", "--conf", str(conf), "--data", str(tmp_path / "data")]) == 0
    assert "2 mixtures\n" in capsys.readouterr().out
    assert main(["render", *(str(tmp_path / "data" / name) for name in sets)]) == 0
    mixtures = read_mixtures(tmp_path / "data" / "clips" / "mixtures.jsonl")
    assert [mixture.num_samples for mixture in mixtures] == [2 * RATE] * 2
    folder = tmp_path / "data" / "clips" / "mixtures"
    assert {path.name for path in folder.iterdir()} == {"mixture", *STEMS}
    (source,) = [track for track in read_stems(data / "tracks_test").tracks if track.track_id == mixtures[0].mix_id]
    toms = sum(audio.read(path, mono=False)[0] for path in source.stems["toms"])
    rendered = audio.read(folder / "toms" / f"{mixtures[0].mix_id}.flac", mono=False)[0]
    np.testing.assert_allclose(rendered, toms, atol=3e-7)  # as it is

    sets["other"] = {**one, "tracks": ["dev", "again"]}
    conf.write_text(json.dumps({"seed": 1, "sample_rate": RATE, "sets": sets}))
    (tmp_path / "data" / "again").mkdir()
    for table in (data / "dev").glob("*.jsonl"):
        (tmp_path / "data" / "again" / table.name).write_text(table.read_text())
    assert main(["simulate", "--conf", str(conf), "--data", str(tmp_path / "data")]) == 4
    assert "is in two of the sets" in capsys.readouterr().err


def test_validate_knows_stems(data, tmp_path, capsys):
    assert main(["validate", str(data / "train"), str(data / "tracks_train")]) == 0
    told = capsys.readouterr().out
    assert "ok, 3 performances on 18 one-shots, 0 tracks" in told and "0 one-shots, 2 tracks" in told
    table = data / "tracks_train" / "tracks.jsonl"
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tracks.jsonl").write_text(table.read_text().replace("16000", "16001"))
    assert main(["validate", str(tmp_path / "broken")]) == 4
    assert "16000 samples at 8000 Hz, the table says 16001" in capsys.readouterr().err


def test_hits_that_are_choked_elsewhere_share_what_was_read(data):
    path = read_stems(data / "train").oneshots[0].path
    whole, _ = audio.read(path, mono=False)
    stems_data._read_shot.cache_clear()
    for size in (700, 1, whole.shape[1]):
        np.testing.assert_array_equal(load_clip(Clip(path, 0, size), RATE), whole[:, :size])
    assert stems_data._read_shot.cache_info().currsize == 1
    with pytest.raises(ValueError, match=Path(path).name):
        load_clip(Clip(path, 0, whole.shape[1] + 1), RATE)


@pytest.mark.corpus
@pytest.mark.slow
@pytest.mark.skipif(not DRUMS.is_dir(), reason=f"no drum corpus in {DRUMS}")
def test_the_muldjord_kit_plays_the_groove_midi_dataset(tmp_path):
    drums.prepare(DRUMS, tmp_path / "data", nj=1)
    sets = {name: read_stems(tmp_path / "data" / name) for name in ("train", "dev", "test")}
    assert [len(one.performances) for one in sets.values()] == [81, 9, 25]
    assert [len(one.oneshots) for one in sets.values()] == [68, 32, 26]
    conf = conf_of(stems=list(STEMS), segment_s=2.0)
    corpus = read_stem_corpus([tmp_path / "data" / "test"], conf, 44100)
    mixture = sample_stems(corpus, conf, 44100, 0, "test", "test-0")
    rendered = load_stems(mixture)
    assert rendered.mixture.shape == (2, 88200) and rendered.mixture.abs().max() > 0.2
    struck = sum(len(one.hits) for one in sets["train"].performances)
    known = sum(note in NOTES for one in sets["train"].performances for _, note, _ in one.hits)
    assert known == struck  # no note of the drummers is lost
