"""PolSESS: its tables and files, the variants of its mixtures, and the chain from a corpus to the results."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests import fake_polsess as fake
from tests import tiny
from tse_lib import audio
from tse_lib.bin.main import main
from tse_lib.bin.render import write_rendered
from tse_lib.bin.train import refuse_dev_in_train
from tse_lib.config import Config, Sets, build
from tse_lib.corpora import polsess
from tse_lib.data import layers as layered
from tse_lib.data.dataset import RenderedMixtures, collate
from tse_lib.data.layers import LayeredMixtures, read_ready, training_items
from tse_lib.evaluation.summary import summarise
from tse_lib.manifest import Mixture, read_layered, write_mixtures
from tse_lib.simulation.layers import layered_set, mixture_of, variants_of
from tse_lib.training.state import new_state
from tse_lib.training.steps import build_objective
from tse_lib.training.trainer import train, validate

CPU = torch.device("cpu")
ALL = ["SER", "SR", "ER", "R", "SE", "S", "E", "C"]
CONV_TASNET = {
    "num_filters": 16, "bottleneck_dim": 8, "hidden_dim": 8, "skip_dim": 8, "num_blocks": 2, "num_repeats": 1,
    "kernel_size": 64, "stride": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Read only."""
    return fake.make(tmp_path_factory.mktemp("polsess") / "PolSESS_C_tiny")


@pytest.fixture(scope="module")
def data(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "data"
    polsess.prepare(root, folder, nj=1)
    return folder


@pytest.fixture
def copy(root, tmp_path):
    return shutil.copytree(root, tmp_path / root.name)


def conf_with(goal="SB", variants=ALL, train=None, **simulation) -> Config:
    wanted = tiny.values()
    wanted["simulation"] = {"goal": goal, "variants": variants, **simulation}
    wanted["model"] = {"name": "conv_tasnet", "params": {**CONV_TASNET, "num_sources": 2 if goal == "SB" else 1}}
    loss = {"name": "pit", "params": {"loss": "neg_si_sdr"}} if goal == "SB" else {"name": "neg_si_sdr"}
    wanted["loss"] = [{"weight": 1.0, **loss}]
    wanted["train"].update(train or {})
    return build(Config, wanted, "conf")


def set_of(data, goal, variants=ALL, **more) -> list[Mixture]:
    one = {"speech": "test", "simulation": {"goal": goal, "variants": variants}, **more}
    return layered_set(data, "test", build(Sets, {"seed": 0, "sample_rate": 8000, "sets": {"test": one}}, "sets"))


def summed(wanted, name, indoor):
    """Of a mixture of `fake` these layers, added up."""
    waves = fake.layers_of(name, indoor)
    return sum(waves[layer].astype(np.float64) for layer in wanted if layer in waves) / 2**15


# ------------------------------------------------------------------------------------------------------------ variants

KEPT = {  # beside the speakers
    "SER": {"scene", "event", "reverb1", "reverb2", "reverb_event"},
    "SR": {"scene", "reverb1", "reverb2"},
    "ER": {"event", "reverb1", "reverb2", "reverb_event"},
    "R": {"reverb1", "reverb2"},
    "SE": {"scene", "event"},
    "S": {"scene"},
    "E": {"event"},
    "C": set(),
}


@pytest.mark.parametrize("goal", ["ES", "EB", "SB"])
def test_a_variant_is_the_sum_of_the_layers_that_are_kept(data, goal):
    mixes = read_layered(data / "test")
    found = []
    for number, mix in enumerate(mixes):
        name = f"test/{number}"
        for variant in variants_of(mix, ALL):
            mixture = mixture_of(mix, variant, goal)
            found.append((mix.indoor, variant))
            speakers = {"speaker1"} if goal == "ES" else {"speaker1", "speaker2"}
            wanted = (speakers | KEPT[variant]) - ({"reverb2"} if goal == "ES" else set())
            rendered = read_ready(mixture)
            np.testing.assert_allclose(rendered.mixture, summed(wanted, name, mix.indoor), atol=1e-7)
            targets = {"ES": [["speaker1"]], "EB": [["speaker1", "speaker2"]], "SB": [["speaker1"], ["speaker2"]]}
            assert len(rendered.targets) == len(targets[goal])
            for target, dry in zip(rendered.targets, targets[goal], strict=True):
                np.testing.assert_allclose(target, summed(dry, name, mix.indoor), atol=1e-7)
    indoors = [(True, variant) for variant in ("SER", "SR", "ER", "R", "C")]
    assert sorted(found) == sorted(indoors + [(False, variant) for variant in ("SE", "S", "E", "C")])


@pytest.mark.parametrize(
    ("goal", "variant", "read"),
    [
        ("SB", "SER", "mix speaker1 speaker2"),
        ("EB", "SR", "mix speaker1 speaker2 event reverb_event"),
        ("SB", "R", "mix speaker1 speaker2 scene event reverb_event"),
        ("ES", "SER", "mix speaker1 speaker2 reverb2"),
        ("SB", "C", "mix speaker1 speaker2 scene event reverb1 reverb2 reverb_event"),
    ],
)
def test_only_what_is_needed_is_read(data, monkeypatch, goal, variant, read):
    mix = read_layered(data / "test")[0]
    paths = Counter()
    real = layered.read_source
    monkeypatch.setattr(layered, "read_source", lambda source: paths.update([source.path]) or real(source))
    read_ready(mixture_of(mix, variant, goal))
    names = {path: layer for layer, path in {**mix.layers, "mix": mix.mix}.items()}
    assert Counter(names[path] for path in paths.elements()) == Counter(read.split())


def test_the_text_says_it_all(data):
    for goal in ("ES", "EB", "SB"):
        for mixture in set_of(data, goal, ["SER", "SR", "ER", "R", "SE", "S", "E"]):
            assert Mixture.from_json(mixture.to_json()) == mixture
            assert mixture.targets == mixture.talkers and not mixture.enrolls


def test_what_cancelled_above_full_scale_is_turned_down(data, tmp_path):
    """The mixture is within full scale only because the scene cancels the speaker."""
    mix = read_layered(data / "test")[1]
    wave = np.full(fake.LENGTH, 0.9, np.float32)
    changed = {**mix.layers, "scene": str(tmp_path / "scene.wav")}
    audio.write(tmp_path / "scene.wav", -0.5 * wave, fake.RATE)
    audio.write(tmp_path / "mix.wav", wave, fake.RATE)
    text = mixture_of(type(mix)(**{**vars(mix), "mix": str(tmp_path / "mix.wav"), "layers": changed}), "E", "SB")
    rendered = read_ready(text)
    assert float(rendered.mixture.max()) == pytest.approx(1.0, abs=1e-6) and rendered.mixture.max() < 1
    speaker = torch.from_numpy(audio.read(mix.layers["speaker1"])[0])
    torch.testing.assert_close(rendered.targets[0], speaker / 1.35, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------------ training items


def test_items_are_a_pass_over_the_mixtures_in_a_variant_of_their_own(data):
    conf, mixes = conf_with(train={"max_steps": 100}), read_layered(data / "train")
    items = LayeredMixtures(mixes, conf)
    drawn = [items.mixture(index) for index in range(200)]
    passes = [{one.ready.mix.utt_id for one in drawn[first : first + 4]} for first in range(0, 200, 4)]
    assert all(len(ids) == 4 for ids in passes)
    orders = {tuple(one.ready.mix.utt_id for one in drawn[first : first + 4]) for first in range(0, 200, 4)}
    assert len(orders) > 5
    for mix in mixes:
        variants = Counter(one.ready.variant for one in drawn if one.ready.mix.utt_id == mix.mix_id)
        assert set(variants) == ({"SER", "SR", "ER", "R", "C"} if mix.indoor else {"SE", "S", "E", "C"})
    again = LayeredMixtures(mixes, conf)
    assert [again.mixture(index) for index in (150, 3, 77)] == [drawn[index] for index in (150, 3, 77)]
    assert items.num_present(3) == conf.train.batch_size
    batch = collate([items[0], items[1]])
    assert batch["mixture"].shape == (2, 1, fake.LENGTH) and batch["target"].shape == (2, 2, fake.LENGTH)


def test_the_variants_follow_a_schedule(data):
    """Words jump at their step; a step whose variants are all of indoors has no mixtures of outdoors."""
    conf = conf_with(variants={0: ["C", "R"], 10: ["SER"], 20: ["SE", "SER"]}, train={"max_steps": 40})
    items = training_items(read_layered(data / "train"), conf)
    by_stretch = [
        Counter(items.mixture(index).ready.variant for index in range(first, first + 20)) for first in (0, 20, 40)
    ]
    assert set(by_stretch[0]) == {"C", "R"} and by_stretch[1] == {"SER": 20} and set(by_stretch[2]) == {"SE", "SER"}
    assert build(Config, json.loads(conf.model_dump_json()), "saved") == conf


def test_a_mixture_that_cannot_be_read_gives_its_place_to_another(copy, tmp_path):
    polsess.prepare(copy, tmp_path / "data", nj=1)
    mixes = read_layered(tmp_path / "data" / "train")
    items = LayeredMixtures(mixes, conf_with())
    broken = items.mixture(0).ready.mix
    with open(broken.path, "r+b") as file:
        file.truncate(1000)
    item = items[0]
    assert broken.path in item["bad_files"][0] and not item["mix_id"].startswith(broken.utt_id)
    assert all(len(items[index]["bad_files"]) == 0 for index in range(1, 4))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"simulation": {"goal": "SE", "variants": "C"}}, "simulation.goal: Input should be 'ES', 'EB' or 'SB'"),
        ({"simulation": {"goal": "SB", "variants": ["SER", "SPER"]}}, "simulation: variants: SPER; there are C, E, ER"),
        ({"simulation": {"goal": "SB", "variants": []}}, "variants: none"),
        ({"simulation": {"goal": "SB", "variant": ["C"]}}, "unknown key 'simulation.variant'; did you mean 'variants'"),
        ({"simulation": {"goal": "SB"}}, "the key 'simulation.variants' is missing"),
        ({"simulation": {"goals": "SB"}}, "unknown key 'simulation.goals'"),
        ({"curriculum": [{"until_step": 2, "simulation": {"goal": "EB"}}]}, "goal is the same"),
        ({"simulation": {"goal": "ES", "variants": "C"}}, "num_sources 2, simulation.goal ES: .* here 1"),
        ({"loss": [{"name": "neg_si_sdr", "weight": 1}]}, "talkers have no order"),
        ({"sample_rate": 16000}, "32000 samples at 8000 Hz; .* 64000 at 16000 Hz"),
        ({"simulation": {"goal": "SB", "variants": "C", "segment_s": 3}}, "segment_s 3 of the conf ask for 24000"),
    ],
)
def test_a_conf_that_does_not_fit_is_refused(data, change, fault):
    wanted = conf_with().model_dump()
    with pytest.raises(ValueError, match=fault):
        conf = build(Config, {**wanted, **change}, "conf")
        training_items(read_layered(data / "train"), conf)
        build_objective(conf)
        new_state(conf, CPU)


@pytest.mark.parametrize(
    ("goal", "variants", "change", "fault"),
    [
        ("SB", ["SER"], {"noise": "noise"}, "noise: not with simulation.goal"),
        ("SB", ["SER"], {"num_absent": 1}, "num_absent: not with simulation.goal"),
        ("SB", ["SE"], {"num_mixtures": 1}, "none of 1 mixtures has one of the variants SE"),
        ("ES", ["SER", "C"], {}, "C of goal ES is its own target"),
    ],
)
def test_a_set_that_does_not_fit_is_refused(data, goal, variants, change, fault):
    with pytest.raises(ValueError, match=fault):
        set_of(data, goal, variants, **change)


# ---------------------------------------------------------------------------------------------------------- validation


def test_the_development_score_is_the_mean_over_variants(data, tmp_path):
    """Three variants with two, one and one mixtures count alike."""
    mixtures = set_of(data, "SB", ["C", "SER", "SE"])
    assert len(mixtures) == 4
    write_mixtures(tmp_path / "mixtures.jsonl", mixtures)
    for mixture in mixtures:
        write_rendered(str(tmp_path), mixture)

    class Halves(torch.nn.Module):
        def forward(self, mixture):
            return mixture[:, None].repeat(1, 2, 1, 1) + 1e-3 * torch.randn(1, 2, 1, mixture.shape[-1])

    torch.manual_seed(0)
    dev = RenderedMixtures(str(tmp_path), fake.RATE)
    off = torch.autocast("cpu", enabled=False)
    scores = validate(Halves(), dev, CPU, off)
    means = [scores[f"si_sdri_{variant}"] for variant in ("C", "SER", "SE")]
    assert scores["si_sdri"] == pytest.approx(np.mean(means), abs=1e-6)
    dev.mixtures = [mixture for mixture in dev.mixtures if mixture.ready.variant == "C"]
    torch.manual_seed(0)
    alone = validate(Halves(), dev, CPU, off)
    assert alone["si_sdri"] == pytest.approx(scores["si_sdri_C"], abs=0.05) and "si_sdri_C" not in alone


def test_the_interval_counts_mixtures_not_their_variants():
    draw = np.random.default_rng(0)
    base = {"target_present": True, "num_talkers": 2, "num_enrolls": 0, "noise": True, "reverberant": False}
    base |= {"same_gender": None}
    values = draw.standard_normal(40)

    def lines(variants):
        return [
            {**base, "mix_id": f"{n}-{variant}", "ready_made": str(n), "variant": variant, "target_spk": str(n)}
            | {"si_sdri": value}
            for n, value in enumerate(values)
            for variant in variants
        ]

    width = [np.diff(summarise(lines(variants))["metrics"]["si_sdri"]["ci95"])[0] for variants in (["S"], ["S", "E"])]
    assert width[1] == pytest.approx(width[0], rel=1e-6)
    uneven = lines(["S"]) + [{**lines(["E"])[0], "si_sdri": 10.0}]
    metrics = summarise(uneven)["metrics"]
    assert metrics["si_sdri_over_variants"]["mean"] == pytest.approx((values.mean() + 10) / 2, abs=1e-5)
    assert metrics["si_sdri"]["mean"] == pytest.approx((values.sum() + 10) / 41, abs=1e-5)


# ---------------------------------------------------------------------------------------------------------- the corpus


def test_the_sets_of_a_corpus(data, root):
    mixes = {name: read_layered(data / name) for name in ("train", "dev", "test")}
    assert {name: len(found) for name, found in mixes.items()} == {"train": 4, "dev": 2, "test": 2}
    first, second = mixes["test"]
    assert (first.indoor, second.indoor) == (True, False) and (first.sample_rate, first.num_samples) == (8000, 32000)
    assert set(first.layers) == set(fake.FOLDERS) and set(second.layers) == set(list(fake.FOLDERS)[:4])
    assert first.talkers[0].startswith("mls-3") and first.talkers[1].startswith("emu-03") and first.place == "office"
    assert all(str(root) in path for path in (first.mix, *first.layers.values()))


def told(copy, tmp_path, capsys, **options) -> str:
    polsess.prepare(copy, tmp_path / "data", nj=1, **options)
    return capsys.readouterr().out


def test_a_good_corpus_has_nothing_told_against_it(copy, tmp_path, capsys):
    said = told(copy, tmp_path, capsys)
    assert "train: 4 mixtures, 2 indoors, 2 outdoors" in said and "warning" not in said
    assert "not the sum of their layers: 0 of 4 (0.0 %) that were added up" in said
    assert "train and test share, by name, of test's: mixtures 0 of 2, speakers 0 of " in said


def change_row(copy, table, number, **fields):
    rows = fake.read_table(copy, table)
    rows[number] |= fields
    fake.write_table(copy, table, rows)
    return rows


def test_the_known_defects_are_told(copy, tmp_path, capsys):
    rows = fake.read_table(copy, "train")
    same = {"speech2OryginalPath": rows[0]["speech1OryginalPath"]}
    change_row(copy, "train", 0, **same)
    path = r"D:\mls\5_1_000001.flac", r"D:\mls\5_2_000002.flac"
    change_row(copy, "train", 1, speech1OryginalPath=path[0], speech2OryginalPath=path[1])
    change_row(copy, "test", 0, sceneOryginalPath="/elsewhere/tau/val-0.wav", speech1OryginalPath=path[1])
    said = told(copy, tmp_path, capsys)
    assert "the same speaker twice: 2 of 4 (50.0 %)" in said
    assert "the same file of speech twice: 1 of 4 (25.0 %)" in said
    val = next(line for line in said.splitlines() if line.startswith("val and test share"))
    assert "scenes 1 of 2" in val and "speakers 0 of" in val
    train = next(line for line in said.splitlines() if line.startswith("train and test share"))
    assert "speakers 1 of" in train and "speech files 1 of" in train and "scenes 0 of 2" in train


def test_half_of_a_set_as_copies_is_told_as_the_faulty_one(copy, tmp_path, capsys):
    """Rows that name the same mixture, and one whose audio is another's."""
    rows = fake.read_table(copy, "train")
    mixes = [copy / "train" / "mix" / row["mixFile"] for row in rows]
    shutil.copy(mixes[1], mixes[3])
    fake.write_table(copy, "train", [*rows, rows[0], rows[2]])
    said = told(copy, tmp_path, capsys)
    assert "train: 3 mixtures" in said and "copies of other rows, left out: 3 of 6 (50.0 %)" in said
    assert said.count("faulty '16k' set (PolSESS_C_both)") == 1
    assert len(read_layered(tmp_path / "data" / "train")) == 3


def change_mix(copy, subset, number, at, value):
    path = copy / subset / "mix" / fake.read_table(copy, subset)[number]["mixFile"]
    wave, _ = soundfile.read(path)
    wave[at] = value
    soundfile.write(path, wave, fake.RATE, subtype="PCM_16")


def test_mixtures_that_do_not_cancel_are_told(copy, tmp_path, capsys, monkeypatch):
    """Of the first mixtures, and where one reaches full scale or shares a layer's file with another."""
    change_mix(copy, "val", 0, 100, 0.25)
    said = told(copy, tmp_path, capsys)
    assert "not the sum of their layers: 1 of 2 (50.0 %) that were added up, by 0.2" in said
    monkeypatch.setattr(polsess, "SUMS_CHECKED", 0)
    assert "that were added up, by" not in told(copy, tmp_path, capsys)
    change_mix(copy, "val", 0, 100, 0.9995)
    change_row(copy, "train", 1, speaker1File=fake.read_table(copy, "train")[3]["speaker1File"])
    train, val, _ = told(copy, tmp_path, capsys).split("mixtures, ")[1:4]
    assert "at full scale (|x| >= 0.999): 0 of 4" in train and "at full scale (|x| >= 0.999): 1 of 2" in val
    assert "not the sum of their layers: 1 of 2 (50.0 %) that were added up, by" in train
    assert "not the sum of their layers: 1 of 1 (100.0 %) that were added up, by" in val


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"sceneFile": "../../secret.wav"}, r"final.csv:2: sceneFile '../../secret.wav': a file name"),
        ({"speaker1File": "mówca.wav"}, r"speaker1File 'm\\xf3wca.wav'"),
        ({"mixFile": "/etc/passwd"}, "mixFile '/etc/passwd'"),
        ({"eventFile": "gone.wav"}, "gone.wav: no such audio file"),
        ({"reverbForEvent": "NaN"}, "reverbForEvent is empty, reverbForSpeaker1 is not"),
        ({"subset": "test"}, "subset 'test' in the table of val"),
    ],
)
def test_a_bad_row_is_named(copy, tmp_path, fields, fault):
    change_row(copy, "val", 0, **fields)
    with pytest.raises(ValueError, match=fault):
        polsess.prepare(copy, tmp_path / "data", nj=1)
    assert not (tmp_path / "data").exists()
    polsess.prepare(copy, tmp_path / "data", nj=1, skip_bad=True)
    assert len(read_layered(tmp_path / "data" / "dev")) == 1


def write_layer(copy, rate=8000, length=32000, channels=1):
    path = copy / "test" / "scene" / fake.read_table(copy, "test")[0]["sceneFile"]
    soundfile.write(path, 0.1 * np.ones((length, channels)), rate, subtype="PCM_16")


@pytest.mark.parametrize(
    ("wave", "fault"),
    [
        ({"rate": 16000}, "32000 samples at 16000 Hz.*4 s at 8000 Hz"),
        ({"length": 31999}, "31999 samples at 8000 Hz"),
        ({"channels": 2}, r"2 channel\(s\)"),
    ],
)
def test_a_layer_that_does_not_fit_its_mixture_is_named(copy, tmp_path, wave, fault):
    write_layer(copy, **wave)
    with pytest.raises(ValueError, match=fault):
        polsess.prepare(copy, tmp_path / "data", nj=1)


def test_mixtures_of_two_rates_are_not_one_set(copy, tmp_path):
    mixes = read_layered(polsess.prepare(copy, tmp_path / "data", nj=1)[2])
    for path in (mixes[0].mix, *mixes[0].layers.values()):
        soundfile.write(path, np.tile(soundfile.read(path)[0], 2), 16000, subtype="PCM_16")
    with pytest.raises(ValueError, match="test: mixtures of one rate expected, these are 1 of 8000 Hz, 1 of 16000 Hz"):
        polsess.prepare(copy, tmp_path / "data", nj=1)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda lines: [*lines, lines[0]], "layers.jsonl:3: duplicate mix_id"),
        (lambda lines: [lines[0], "{}"], "layers.jsonl:2: not a layered mixture"),
        (lambda lines: [lines[0], lines[1].replace("32000", "16000")], "one rate and length expected"),
        (lambda lines: [], "one rate and length expected, got .* \\[\\]"),
    ],
)
def test_a_damaged_list_is_refused(data, tmp_path, change, fault):
    lines = (data / "test" / "layers.jsonl").read_text().splitlines()
    (tmp_path / "layers.jsonl").write_text("".join(f"{line}\n" for line in change(lines)))
    with pytest.raises(ValueError, match=fault):
        read_layered(tmp_path)


def test_a_link_out_of_the_corpus_is_not_followed(copy, tmp_path):
    path = copy / "test" / "scene" / fake.read_table(copy, "test")[0]["sceneFile"]
    path.rename(tmp_path / "outside.wav")
    path.symlink_to(tmp_path / "outside.wav")
    with pytest.raises(ValueError, match="a link that leads out of"):
        polsess.prepare(copy, tmp_path / "data", nj=1)


def test_the_table_is_found_or_asked_for(copy, tmp_path):
    renamed = copy.rename(copy.with_name("renamed"))
    assert len(polsess.prepare(renamed, tmp_path / "data", nj=1)) == 3
    table = next((renamed / "val").glob("*.csv"))
    shutil.copy(table, table.with_name("corpus_other_val_final.csv"))
    with pytest.raises(ValueError, match="which is the table"):
        polsess.prepare(renamed, tmp_path / "data", nj=1)
    for path in (renamed / "val").glob("*.csv"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="corpus_renamed_val_final.csv: no such table; .* move it here"):
        polsess.prepare(renamed, tmp_path / "data", nj=1)
    with pytest.raises(FileNotFoundError, match="none of the folders train, val, test"):
        polsess.prepare(tmp_path / "nowhere", tmp_path / "data", nj=1)


def test_a_table_without_a_column_or_in_another_encoding_is_refused(copy, tmp_path):
    path = fake.table_of(copy, "val")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("sceneFile", "scenefile"), encoding="utf-8")
    with pytest.raises(ValueError, match="no column 'sceneFile'"):
        polsess.prepare(copy, tmp_path / "data", nj=1)
    path.write_bytes(text.replace("office", "kawiarnia\u0142").encode("cp1250"))
    with pytest.raises(ValueError, match="not UTF-8 text"):
        polsess.prepare(copy, tmp_path / "data", nj=1)


# ------------------------------------------------------------------------------------------------------ the whole chain


@pytest.mark.parametrize(("goal", "variants"), [("SB", ["SER", "SE"]), ("EB", ["SER"])])
def test_from_the_corpus_to_results(root, tmp_path, monkeypatch, goal, variants):
    monkeypatch.chdir(tmp_path)
    conf = conf_with(goal, train={"max_steps": 2, "valid_every": 2})
    (tmp_path / "tiny.yaml").write_text(conf.model_dump_json(), encoding="utf-8")
    sets = {
        f"{name}_set": {
            "speech": name, "simulation": {"goal": goal, "variants": variants}, "num_mixtures": len(variants)
        }
        for name in ("dev", "test")
    }  # fmt: skip
    (tmp_path / "sets.yaml").write_text(json.dumps({"seed": 0, "sample_rate": 8000, "sets": sets}), encoding="utf-8")
    steps = [
        f"prepare polsess --root {root} --out data --nj 1",
        "simulate --conf sets.yaml --data data",
        "render data/dev_set data/test_set",
        "train --conf tiny.yaml --data data --dev dev_set --exp exp/tiny",
        "infer --model exp/tiny/best.pt --data data/test_set --out exp/tiny/test_set/wav --device cpu",
        "score --data data/test_set --est exp/tiny/test_set/wav --out exp/tiny/test_set/scores.part",
        "results --exp exp/tiny --sets test_set --conf tiny.yaml",
        "check tiny.yaml --data data --train train --device cpu --steps 1",
    ]
    for step in steps:
        assert not main(step.split()), step
    summary = json.loads((tmp_path / "exp/tiny/test_set/summary.json").read_text())
    results = (tmp_path / "RESULTS.md").read_text()
    page = (tmp_path / "exp/tiny/report/index.html").read_text()
    (valid,) = map(json.loads, (tmp_path / "exp/tiny/log/valid.jsonl").read_text().splitlines())
    assert summary["reference"] == "dry" and f"variant {variants[0]}" in page
    if goal == "EB":
        assert summary["n"] == 1 and "| mean over the variants | 1 |" in results and "si_sdri_SER" not in valid
        return
    assert summary["n"] == 4
    means = [summary["groups"][f"variant={name}"]["si_sdri"]["mean"] for name in variants]
    assert summary["metrics"]["si_sdri_over_variants"]["mean"] == pytest.approx(np.mean(means), abs=1e-5)
    assert "| variant SER | 2 | " in results and "| mean over the variants | 4 | " in results
    assert valid["si_sdri"] == pytest.approx(np.mean([valid[f"si_sdri_{name}"] for name in variants]), abs=1e-4)


def test_a_run_goes_on_bit_by_bit(data, tmp_path):
    """Also from a stretch of the schedule into the next, and the mixtures that it is chosen by are not trained on."""
    mixtures = set_of(data, "ES", ["SE", "SER"])
    write_mixtures(tmp_path / "dev" / "mixtures.jsonl", mixtures)
    for mixture in mixtures:
        write_rendered(str(tmp_path / "dev"), mixture)
    mixes = read_layered(data / "train")
    refuse_dev_in_train(mixes, tmp_path / "dev")
    with pytest.raises(ValueError, match="2 of its mixtures are trained on"):
        refuse_dev_in_train(read_layered(data / "test"), tmp_path / "dev")
    options = {"max_steps": 4, "valid_every": 4, "save_every": 2, "keep_last": 4}
    conf = conf_with("ES", {0: ["C", "R"], 2: ["SE", "SER"]}, options)
    whole = train(conf, mixes, str(tmp_path / "dev"), tmp_path / "whole", CPU)
    (tmp_path / "again").mkdir()
    for name in ("step_00000002.pt", "config.yaml"):
        shutil.copy(tmp_path / "whole" / name, tmp_path / "again" / name)
    again = train(conf, mixes, str(tmp_path / "dev"), tmp_path / "again", CPU)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    with pytest.raises(ValueError, match="what it is trained on"):
        train(conf, mixes[:3], str(tmp_path / "dev"), tmp_path / "again", CPU)


def test_layered_mixtures_are_not_drawn(data, tmp_path):
    (tmp_path / "tiny.yaml").write_text(conf_with().model_dump_json(), encoding="utf-8")
    for command, fault in (
        (f"inspect {tmp_path}/tiny.yaml --data {data}", 4),
        (f"train --conf {tmp_path}/tiny.yaml --data {data} --noise test --exp {tmp_path}/exp", 4),
    ):
        assert main(command.split()) == fault


def test_a_prepared_set_is_validated(copy, tmp_path, capsys):
    folder = polsess.prepare(copy, tmp_path / "data", nj=1)[2]
    assert main(["validate", str(folder)]) in (0, None)
    assert "ready-made mixtures" in capsys.readouterr().out
    mixes = read_layered(folder)
    audio.write(Path(mixes[0].mix), np.zeros(17, np.float32), 8000)
    Path(mixes[1].layers["scene"]).unlink()
    assert main(["validate", str(folder)]) == 4
    told = capsys.readouterr().err
    assert f"{mixes[0].mix}: 17 samples at 8000 Hz, the table says" in told and mixes[1].layers["scene"] in told
