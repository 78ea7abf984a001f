"""Configuration is strict: what a user gets wrong is named, with the way out."""

import copy
import json

import pytest
import yaml

from tests import tiny
from tse_lib.config import (
    Config,
    build,
    check_params,
    curriculum_scalars,
    load_config,
    load_sets,
    override,
    parse_yaml,
    read_yaml,
    simulation_at,
)


def write(path, wanted):
    path.write_text(yaml.safe_dump(wanted), encoding="utf-8")
    return path


def conf_with(**simulation):
    wanted = tiny.values()
    wanted["simulation"].update(simulation)
    return build(Config, wanted, "conf")


# ------------------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize(
    ("place", "key", "near"),
    [
        ((), "sample_rat", "sample_rate"),
        (("simulation",), "snr", "snr_db"),
        (("train",), "batchsize", "batch_size"),
        (("loss", 0), "wieght", "weight"),
        (("model",), "parms", "params"),
    ],
)
def test_an_unknown_key_names_its_place_and_the_nearest(tmp_path, place, key, near):
    wanted = tiny.values()
    section = wanted
    for part in place:
        section = section[part]
    section[key] = 1
    with pytest.raises(ValueError) as error:
        load_config(write(tmp_path / "a.yaml", wanted))
    where = ".".join(map(str, [*place, key]))
    assert f"a.yaml: unknown key '{where}'; did you mean '{near}'?" in str(error.value)


def test_an_unknown_key_far_from_all_lists_the_known():
    with pytest.raises(ValueError, match=r"unknown key 'zzz'; known: .*loss, model.*train"):
        build(Config, {**tiny.values(), "zzz": 1}, "conf")


def test_all_faults_are_told_at_once():
    wanted = tiny.values()
    del wanted["seed"]
    wanted["train"] |= {"lr": -1, "momentum": 0.9}
    with pytest.raises(ValueError) as error:
        build(Config, wanted, "conf")
    for text in ("'seed' is missing", "train.lr: ", "got -1", "unknown key 'train.momentum'"):
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("simulation", "told"),
    [
        ({"snr_db": [20, 5]}, "ends before it begins"),
        ({"num_talkers": 0}, "num_talkers: at least 1"),
        ({"num_enrolls": [0, 2]}, "num_enrolls: 0 for a separation, else at least 1"),
        ({"num_enrolls": 0}, "target_absent must be 0 where all talkers are wanted"),
        ({"num_enrolls": 0, "target_absent": 0, "num_talkers": [1, 2]}, "num_talkers: one number where all are wanted"),
        ({"enroll_s": 0}, "enroll_s must be there and above 0"),
        ({"enroll_s": None}, "enroll_s must be there and above 0"),
        ({"speed": [0, 1]}, "must be above 0"),
        ({"noise_probability": 1.5}, "less than or equal to 1"),
        ({"target_absent": -0.1}, "greater than or equal to 0"),
        ({"segment_s": 0}, "must be above 0"),
        ({"segment_s": "long"}, "a number or a range .low, high. expected"),
        ({"sir_db": [1, 2, 3]}, "sir_db"),
        ({"num_talkers": [1, 2.5]}, "num_talkers"),
    ],
)
def test_values_out_of_range(simulation, told):
    with pytest.raises(ValueError, match=told):
        conf_with(**simulation)


def test_a_conf_must_be_a_mapping():
    with pytest.raises(ValueError, match=r"a\.yaml: a mapping of keys expected, got \['x'\]"):
        build(Config, ["x"], "a.yaml")


def test_a_missing_file_lists_the_others(tmp_path):
    write(tmp_path / "tse.yaml", {})
    with pytest.raises(FileNotFoundError, match=r"tsse\.yaml: no such configuration; there are: .*tse\.yaml"):
        read_yaml(tmp_path / "tsse.yaml")
    with pytest.raises(FileNotFoundError, match="no such configuration$"):
        read_yaml(tmp_path / "nowhere" / "tse.yaml")


# ------------------------------------------------------------------------------------------------ YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E5", 1e5), ("-2.5e+3", -2500.0), ("1.e2", 100.0), ("e4", "e4"), ("1e", "1e"), ("3", 3)],
)
def test_numbers_with_an_exponent_are_numbers(text, value):
    parsed = parse_yaml(f"x: {text}")["x"]
    assert parsed == value and type(parsed) is type(value)


def test_a_key_given_twice_is_an_error_with_its_line():
    with pytest.raises(ValueError, match=r"a\.yaml:2: the key 'lr' is given twice"):
        parse_yaml("a: 1\nb: {lr: 1, lr: 2}\n", "a.yaml")


def test_a_list_for_a_key_is_an_error_with_its_line():
    with pytest.raises(ValueError, match=r"a\.yaml:2: a list or mapping stands where a key should"):
        parse_yaml("a: 1\nb: {[1, 2]: 3}\n", "a.yaml")


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "a.yaml").write_bytes("# Übung\nseed: 0\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.yaml: not in UTF-8 \(byte 2\)"):
        read_yaml(tmp_path / "a.yaml")


def test_anchors_work():
    assert parse_yaml("a: &x {k: 1}\nb: *x") == {"a": {"k": 1}, "b": {"k": 1}}


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch {}']", "!new:torch.nn.Linear", "!include x"])
def test_tags_are_refused_and_nothing_runs(tmp_path, tag):
    with pytest.raises(ValueError, match=r"a\.yaml:1: could not determine a constructor"):
        parse_yaml("x: " + tag.format(tmp_path / "ran"), "a.yaml")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\ta: 1", "a: 'x"])
def test_what_is_no_yaml_is_told_with_its_line(text):
    with pytest.raises(ValueError, match=r"^a\.yaml:[12]: "):
        parse_yaml(text, "a.yaml")


# ------------------------------------------------------------------------------------------------ --set


def test_set_overrides(tmp_path):
    path = write(tmp_path / "a.yaml", tiny.values())
    conf = load_config(
        path, ["train.lr=1e-4", "simulation.snr_db=[0, 3]", "loss.0.weight=2", "model.params.film=false", "seed=7"]
    )
    assert conf.train.lr == 1e-4 and conf.simulation.snr_db == (0, 3) and conf.seed == 7
    assert conf.loss[0].weight == 2 and conf.model.params["film"] is False
    assert conf.loss[1].weight == 0.1


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("train.lr", "'key.subkey=value' expected"),
        ("=3", "'key.subkey=value' expected"),
        ("train.lrr=3", "unknown key 'train.lrr'; did you mean 'lr'"),
        ("trian.lr=3", "unknown key 'trian'; did you mean 'train'"),
        ("train.lr.x=3", "'train.lr' is not a section"),
        ("loss.9.weight=3", "there is no '9' to go into"),
        ("train.lr=[1", r"--set train\.lr=\[1:1: "),
        ("train.lr=fast", "train\\.lr: .*number.*got 'fast'"),
    ],
)
def test_set_errors(tmp_path, assignment, told):
    with pytest.raises(ValueError, match=told):
        load_config(write(tmp_path / "a.yaml", tiny.values()), [assignment])


def test_set_makes_sections_that_are_left_out():
    assert override({"a": 1}, ["inference.chunk_s=4"], "conf") == {"a": 1, "inference": {"chunk_s": 4}}


def test_a_mapping_may_take_over_the_keys_of_another():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc:\n  <<: *a\n"
    assert parse_yaml(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}
    with pytest.raises(ValueError, match="the key 'y' is given twice"):
        parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 3, y: 4}")


# ------------------------------------------------------------------------------------------------ ranges


def test_one_number_is_a_range():
    conf = conf_with(snr_db=7, num_talkers=2)
    assert conf.simulation.snr_db == (7, 7) and conf.simulation.num_talkers == (2, 2)


def test_a_stored_conf_builds_the_same_again():
    conf = conf_with(speed=[0.9, 1.1])
    assert build(Config, conf.model_dump(mode="json"), "again") == conf


# ------------------------------------------------------------------------------------------------ curriculum


def with_curriculum(*stretches):
    wanted = copy.deepcopy(tiny.values())
    wanted["curriculum"] = list(stretches)
    return build(Config, wanted, "conf")


def test_curriculum_replaces_values_until_its_step():
    conf = with_curriculum(
        {"until_step": 10, "simulation": {"num_talkers": 1}}, {"until_step": 20, "simulation": {"snr_db": [30, 40]}}
    )
    at = [simulation_at(conf, step) for step in (0, 9, 10, 19, 20, 10**6)]
    assert [one.num_talkers for one in at] == [(1, 1), (1, 1), (2, 3), (2, 3), (2, 3), (2, 3)]
    assert [one.snr_db for one in at] == [(5, 20), (5, 20), (30, 40), (30, 40), (5, 20), (5, 20)]
    assert at[-1] == conf.simulation


def test_ramps_go_linearly_from_where_the_stretch_begins():
    conf = with_curriculum(
        {"until_step": 100, "simulation": {"target_absent": 0}},
        {
            "until_step": 200,
            "simulation": {"target_absent": {"ramp": [0, 0.4]}, "snr_db": {"ramp": [[15, 20], [-5, 10]]}},
        },
    )
    assert simulation_at(conf, 99).target_absent == 0
    assert [simulation_at(conf, step).target_absent for step in (100, 150, 175)] == pytest.approx([0, 0.2, 0.3])
    assert simulation_at(conf, 150).snr_db == pytest.approx((5, 15))
    assert simulation_at(conf, 200) == conf.simulation


@pytest.mark.parametrize(
    ("stretches", "told"),
    [
        ([{"until_step": 9, "simulation": {}}, {"until_step": 9, "simulation": {}}], "must rise"),
        ([{"until_step": 9, "simulation": {"snr": 1}}], "unknown key 'snr'; did you mean 'snr_db'"),
        ([{"until_step": 9, "simulation": {"snr_db": {"from": 1, "to": 2}}}], "{ramp: .from, to.} expected"),
        ([{"until_step": 9, "simulation": {"snr_db": {"ramp": [[1, 2], [2]]}}}], "two numbers or two ranges"),
        ([{"until_step": 9, "simulation": {"snr_db": {"ramp": ["a", "b"]}}}], "two numbers or two ranges"),
        ([{"until_step": 9, "simulation": {"target_absent": {"ramp": [0, 4]}}}], "target_absent: .*less than or equal"),
    ],
)
def test_curriculum_errors_are_found_before_training(stretches, told):
    with pytest.raises(ValueError, match=told):
        with_curriculum(*stretches)


# ------------------------------------------------------------------------------------------------ schedules


def test_a_value_may_be_a_schedule_over_steps():
    conf = conf_with(
        snr_db={0: [20, 30], 100: [0, 10]},
        target_absent={10: 0, 20: 0.5},
        num_talkers={0: 2, 10: [2, 4]},
        target={0: "dry", 50: "reverberant"},
    )
    at = {step: simulation_at(conf, step) for step in (0, 5, 15, 50, 100, 10**6)}
    assert [at[step].snr_db for step in (0, 50, 100, 10**6)] == [(20, 30), (10, 20), (0, 10), (0, 10)]
    assert [at[step].target_absent for step in (0, 5, 15, 50)] == [0, 0, 0.25, 0.5]
    assert [at[step].num_talkers for step in (0, 5, 15)] == [(2, 2), (2, 3), (2, 4)]
    assert [at[step].target for step in (15, 50)] == ["dry", "reverberant"]
    assert conf.simulation == at[0]


def test_a_stored_schedule_builds_the_same_again():
    conf = conf_with(snr_db={0: [20, 30], 100: [0, 10]}, enroll_noise_probability={5: 0, 9: 1})
    again = build(Config, json.loads(json.dumps(conf.model_dump(mode="json"))), "again")
    assert again == conf and simulation_at(again, 7).enroll_noise_probability == 0.5


def test_a_stretch_of_the_curriculum_overrides_a_schedule():
    wanted = tiny.values()
    wanted["simulation"]["snr_db"] = {0: 20, 100: 0}
    wanted["curriculum"] = [{"until_step": 50, "simulation": {"snr_db": 40}}]
    conf = build(Config, wanted, "conf")
    assert simulation_at(conf, 20).snr_db == (40, 40) and simulation_at(conf, 50).snr_db == (10, 10)


@pytest.mark.parametrize(
    ("simulation", "told"),
    [
        ({"snr_db": {0: 20, 100: "loud"}}, "snr_db: between two numbers or two ranges, not from 20 to 'loud'"),
        ({"target_absent": {0: 0, 100: 2}}, "target_absent: .*less than or equal to 1"),
        ({"snr": {0: 1, 5: 2}}, r"unknown key 'simulation\.snr'; did you mean 'snr_db'"),
        ({"target_presence": 0}, "target_presence must be above 0"),
        ({"overlap_ratio": [0, 1.5]}, "overlap_ratio: a share, at most 1"),
        ({"rir_sources": {"real": 0}}, "rir_sources: weights of at least 0, not all 0"),
        ({"render_on": {0: "worker", 5: "device"}}, "render_on is the same for the whole training"),
    ],
)
def test_schedule_and_knob_errors_are_found_before_training(simulation, told):
    with pytest.raises(ValueError, match=told):
        conf_with(**simulation)


def test_the_log_shows_what_changes():
    wanted = tiny.values()
    wanted["simulation"]["snr_db"] = {0: [20, 30], 100: [0, 10]}
    wanted["curriculum"] = [{"until_step": 50, "simulation": {"target_absent": {"ramp": [0, 0.5]}, "num_talkers": 2}}]
    conf = build(Config, wanted, "conf")
    shown = curriculum_scalars(conf, 25)
    assert shown == {"num_talkers": 2, "snr_db_low": 15, "snr_db_high": 25, "target_absent": 0.25}
    assert curriculum_scalars(conf_with(), 25) == {}


# ------------------------------------------------------------------------------------------------ options, sets


def test_check_params():
    def loss(estimate, target, floor_db=1):
        pass

    check_params(loss, {"floor_db": 2}, "loss x")
    with pytest.raises(ValueError, match="loss x: unknown option 'flor_db'; did you mean 'floor_db'"):
        check_params(loss, {"flor_db": 2}, "loss x")
    with pytest.raises(ValueError, match="loss x: unknown option 'zz'; known: "):
        check_params(loss, {"zz": 2}, "loss x")


def test_sets_name_the_nearest_key_too(tmp_path):
    one = {"num_mixtures": 4, "speach": "dev", "speech": "dev", "simulation": tiny.SIMULATION}
    with pytest.raises(ValueError, match=r"unknown key 'sets\.dev\.speach'; did you mean 'speech'"):
        load_sets(write(tmp_path / "sets.yaml", {"seed": 1, "sample_rate": 8000, "sets": {"dev": one}}))


@pytest.mark.parametrize("restart_at", [[1], [4, 3], [4, 4], [8], [9]])
def test_restarts_lie_in_order_between_warm_up_and_the_end(restart_at):
    wanted = tiny.values()
    wanted["train"] |= {"warmup_steps": 1, "max_steps": 8, "restart_at": restart_at}
    with pytest.raises(ValueError, match=r"train.*restart_at .*: steps in ascending order, above warmup_steps 1 and"):
        build(Config, wanted, "conf")
    wanted["train"]["restart_at"] = [3, 5]
    assert build(Config, wanted, "conf").train.restart_at == (3, 5)


@pytest.mark.parametrize("part", ["train", "train.gan"])
def test_a_learning_rate_does_not_rise_to_its_least(part):
    wanted = tiny.values()
    gan = {"discriminator": {"name": "mpd_msd"}, "lr": 1e-3, "discriminator_only_steps": 1, "ramp_steps": 1}
    wanted["train"] |= {"step": "gan", "gan": gan | {"adversarial_weight": 0.1, "feature_weight": 1}}
    build(Config, wanted, "conf")
    (wanted["train"] if part == "train" else wanted["train"]["gan"])["min_lr"] = 2e-3
    with pytest.raises(ValueError, match=f"conf: {part}: min_lr 0.002 is above lr 0.001"):
        build(Config, wanted, "conf")
