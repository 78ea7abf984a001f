"""What a run keeps, which checkpoint it goes on from, how it is asked to stop, and what it tells."""

import os
import signal

import pytest
import torch

from tests.test_training import CPU, assert_equal, conf_with, lines_of, run, without_clock
from tse_lib import checkpoint
from tse_lib.data.dataset import DrawnMixtures
from tse_lib.simulation.sample import read_corpus
from tse_lib.training import saving, trainer
from tse_lib.training.log import line_of
from tse_lib.training.state import new_state
from tse_lib.training.steps import new_run, supervised_step


@pytest.fixture(scope="module")
def corpus(corpus_dir):
    return read_corpus(corpus_dir / "train", corpus_dir / "noise")


def names(exp):
    return sorted(path.name for path in exp.glob("*.pt"))


def at_step(monkeypatch, step, act):
    """Let the step function do something else once before it takes this step."""

    def acting(state, *rest):
        if state.step == step:
            act()
        return supervised_step(state, *rest)

    monkeypatch.setitem(trainer.STEPS, "supervised", acting)


def flip(path):
    """Change a byte in the middle, where the weights lie."""
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :])


# ------------------------------------------------------------------------------------------------ which are kept


def test_the_newest_and_the_milestones_are_kept(corpus, corpus_dir, tmp_path):
    conf = conf_with({"save_every": 1, "keep_last": 3, "milestones": [2, 3], "valid_every": 100})
    run(conf, corpus, corpus_dir, tmp_path)
    kept = [f"step_{step:08d}.pt" for step in (6, 7, 8)]
    assert names(tmp_path) == sorted(["best.pt", "last.pt", *kept, "milestone_00000002.pt", "milestone_00000003.pt"])
    for name, step in (("last.pt", 8), ("step_00000007.pt", 7), ("milestone_00000002.pt", 2)):
        assert checkpoint.load(tmp_path / name)["step"] == step
    assert (tmp_path / "last.pt").samefile(tmp_path / kept[-1])
    assert [line["step"] for line in lines_of(tmp_path / "log" / "valid.jsonl")] == [2, 3, 8]


def test_a_file_system_without_links_gets_copies(corpus, corpus_dir, tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    run(conf_with({"milestones": [4]}), corpus, corpus_dir, tmp_path)
    assert names(tmp_path) == ["best.pt", "last.pt", "milestone_00000004.pt", "step_00000006.pt", "step_00000008.pt"]
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 8


def test_how_many_are_kept_may_change(corpus, corpus_dir, tmp_path, monkeypatch):
    def stop():
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        at_step(patch, 5, stop)
        run(conf_with({"save_every": 1, "keep_last": 4}), corpus, corpus_dir, tmp_path)
    run(conf_with({"save_every": 1, "keep_last": 1}), corpus, corpus_dir, tmp_path)
    assert names(tmp_path) == ["best.pt", "last.pt", "step_00000008.pt"]


# ------------------------------------------------------------------------------------------------ damage


@pytest.fixture
def calm(corpus, corpus_dir, tmp_path):
    run(conf_with(), corpus, corpus_dir, tmp_path / "calm")
    return checkpoint.load(tmp_path / "calm" / "last.pt")


def test_a_damaged_one_falls_back_to_the_one_before(corpus, corpus_dir, tmp_path, calm, monkeypatch, capsys):
    """last.pt is a second name of the newest, so that is not tried again; the end is the same, bit for bit."""
    exp = tmp_path / "rough"
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        run(conf_with(), corpus, corpus_dir, exp)
    assert names(exp) == ["best.pt", "last.pt", "step_00000006.pt", "step_00000007.pt"]
    flip(exp / "last.pt")
    capsys.readouterr()
    run(conf_with(), corpus, corpus_dir, exp)
    told = capsys.readouterr().err
    assert "last.pt: damaged (checksum of record" in told and "going on from step_00000006.pt (step 6) instead" in told
    assert told.count("warning") == 1
    assert_equal(without_clock(checkpoint.load(exp / "last.pt")), without_clock(calm))


def test_a_last_one_that_is_gone_is_no_matter(corpus, corpus_dir, tmp_path, calm):
    exp = tmp_path / "calm"
    (exp / "last.pt").unlink()
    (exp / "step_00000008.pt").write_bytes(b"")
    run(conf_with(), corpus, corpus_dir, exp)
    assert_equal(without_clock(checkpoint.load(exp / "last.pt")), without_clock(calm))


def test_where_all_are_damaged_nothing_is_begun_anew(corpus, corpus_dir, tmp_path, calm):
    exp = tmp_path / "calm"
    for path in exp.glob("step_*.pt"):
        flip(path)
    with pytest.raises(ValueError, match=r"last.pt: damaged .*; no other checkpoint in .*calm is whole; to train anew"):
        run(conf_with(), corpus, corpus_dir, exp)


def test_options_of_a_later_release_do_not_stop_a_run(corpus, corpus_dir, tmp_path, calm):
    """A checkpoint that lacks what this release added has the default of that."""
    old = dict(calm)
    del old["config"]["train"]["keep_last"], old["config"]["train"]["tf32"], old["processes"], old["alarms"]
    checkpoint.save(tmp_path / "calm" / "last.pt", old)
    run(conf_with(), corpus, corpus_dir, tmp_path / "calm")


# ------------------------------------------------------------------------------------------------ asked to stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop_it_finishes_the_step_and_saves(corpus, corpus_dir, tmp_path, calm, monkeypatch, capsys, number):
    exp, before = tmp_path / "rough", signal.getsignal(number)
    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda: os.kill(os.getpid(), number))
        state = run(conf_with({"save_every": 100}), corpus, corpus_dir, exp)
    assert state.stopped_by == signal.Signals(number).name and state.step == 5
    assert checkpoint.load(exp / "last.pt")["step"] == 5
    assert f"{state.stopped_by}: step 5 of 8 is finished and saved; start it again" in capsys.readouterr().out
    assert signal.getsignal(number) == before
    assert not run(conf_with({"save_every": 100}), corpus, corpus_dir, exp).stopped_by
    saved = checkpoint.load(exp / "last.pt")
    for key in ("modules", "ema", "optimizers", "schedulers", "best", "step"):
        assert_equal(saved[key], calm[key], key)
    assert [line["step"] for line in lines_of(exp / "log" / "train.jsonl")] == list(range(1, 9))


def test_with_all_that_is_planned_after_v2_a_stop_changes_nothing_either(corpus, corpus_dir, tmp_path, monkeypatch):
    planned = {"film": False, "adaln": True, "enroll_scales": [1, 2], "time_rnn": "mamba", "condition_dropout": 0.5}
    conf = conf_with({"max_steps": 4}, model={"params": {**conf_with().model.params, **planned}})
    calm = run(conf, corpus, corpus_dir, tmp_path / "calm")
    with monkeypatch.context() as patch:
        at_step(patch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert run(conf, corpus, corpus_dir, tmp_path / "rough").step == 2
    again = run(conf, corpus, corpus_dir, tmp_path / "rough")
    assert_equal(dict(again.model.state_dict()), dict(calm.model.state_dict()))


def test_what_was_said_can_be_read_later(corpus, corpus_dir, tmp_path, monkeypatch, capsys):
    """After a crash the lines of steps that are taken again are there once, as are those of a kill in mid-line."""

    def crash():
        raise KeyError("crash")

    monkeypatch.delenv("TSE_LOG", raising=False)
    exp, log = tmp_path / "exp", tmp_path / "exp" / "log" / "train.log"
    with monkeypatch.context() as patch, pytest.raises(KeyError):
        at_step(patch, 7, crash)
        run(conf_with({"save_every": 5}), corpus, corpus_dir, exp)
    with open(log, "a") as file:
        file.write("warning: step 7: the gradient is not finite\nstep 8/8  lo")
    assert "step 7/8  loss" in log.read_text()
    capsys.readouterr()
    run(conf_with({"save_every": 5}), corpus, corpus_dir, exp)
    lines = log.read_text().splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("step ") and "/" in line.split()[1]] == [
        f"step {step}/8" for step in range(1, 9)
    ]
    assert [line.split(", ")[-1] for line in lines if line.startswith("# Started at ")] == ["step 0", "step 5"]
    assert [line for line in lines if "on the development set" in line][-1] == lines[-1]
    assert "warning" not in log.read_text()
    said = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in said] == said  # what is on the terminal is there, too


def test_what_the_launcher_keeps_is_not_kept_twice(corpus, corpus_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("TSE_LOG", str(tmp_path / "exp" / "log" / "finetune.log"))
    run(conf_with({"max_steps": 1}), corpus, corpus_dir, tmp_path / "exp")
    assert not (tmp_path / "exp" / "log" / "train.log").exists()
    run(conf_with({"max_steps": 1}), corpus, corpus_dir, tmp_path / "other")
    assert (tmp_path / "other" / "log" / "train.log").exists()


def test_reports_are_whole_wherever_a_run_was_stopped(corpus, corpus_dir, tmp_path, monkeypatch):
    """A report is the mean over all of its steps, also of those before the stop."""
    conf = conf_with({"log_every": 4})
    run(conf, corpus, corpus_dir, tmp_path / "calm")
    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        run(conf, corpus, corpus_dir, tmp_path / "rough")
    run(conf, corpus, corpus_dir, tmp_path / "rough")
    calm, rough = (lines_of(tmp_path / exp / "log" / "train.jsonl") for exp in ("calm", "rough"))
    assert [line["step"] for line in calm] == [4, 8]
    assert [without_clock(line) for line in rough] == [without_clock(line) for line in calm]


def test_workers_outlive_the_request(corpus, corpus_dir, tmp_path, monkeypatch):
    """A queue sends its signal to every process; the step could not be finished without those that draw."""
    before = set(children())

    def stop():
        workers = set(children()) - before
        assert workers
        for pid in (*workers, os.getpid()):
            os.kill(pid, signal.SIGTERM)

    with monkeypatch.context() as patch:
        at_step(patch, 2, stop)
        state = run(conf_with({"num_workers": 2}), corpus, corpus_dir, tmp_path)
    assert state.stopped_by == "SIGTERM" and state.step == 3
    assert set(children()) == before


def children():
    with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


def test_another_number_of_processes_is_told(corpus, corpus_dir, tmp_path, calm, capsys):
    checkpoint.save(tmp_path / "calm" / "last.pt", {**calm, "processes": 4})
    capsys.readouterr()
    run(conf_with(), corpus, corpus_dir, tmp_path / "calm")
    told = capsys.readouterr().out
    assert "1 processes, before there were 4: the same mixtures, but sums are rounded otherwise" in told


# ------------------------------------------------------------------------------------------------ what is told


def test_the_time_of_a_step_is_split(corpus, corpus_dir, tmp_path, capsys):
    run(conf_with({"log_every": 4}), corpus, corpus_dir, tmp_path)
    for line in lines_of(tmp_path / "log" / "train.jsonl"):
        split = [line[name] for name in ("data_s", "forward_s", "backward_s", "optimizer_s")]
        assert all(part > 0 for part in split) and 4 * sum(split) <= line["seconds"] + 0.1
    assert "step 4/8  loss " in capsys.readouterr().out


def test_a_report_is_a_line():
    numbers = {"loss": -3.2141, "neg_si_sdr": -3.5, "skipped": 2, "bad_files": 0, "lr": 2e-4, "seconds": 9.0}
    times = {"data_s": 0.01, "forward_s": 0.04, "backward_s": 0.04, "optimizer_s": 0.01}
    assert line_of(50, 7000, numbers | times) == (
        "step 50/7000  loss -3.214  neg_si_sdr -3.5  lr 0.0002  skipped 2  "
        "0.1 s/step (data 10%, forward 40%, backward 40%, optimizer 10%)"
    )


def test_the_development_set_can_be_heard(corpus, corpus_dir, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install -e .[train])")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(conf_with({"audio_examples": 2}), corpus, corpus_dir, tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    told = {tag: [event.step for event in board.Audio(tag)] for tag in board.Tags()["audio"]}
    assert len(told) == 6
    assert all(steps == ([4, 8] if tag.endswith("estimate") else [4]) for tag, steps in told.items())
    assert board.Audio(next(iter(told)))[0].sample_rate == 8000


# ------------------------------------------------------------------------------------------------ switches


def test_the_first_batches_can_be_repeated(corpus, corpus_dir, tmp_path, monkeypatch):
    """And then the loss of what was seen so often falls."""
    drawn, original = [], DrawnMixtures.__getitem__

    def noted(self, index):
        drawn.append(index)
        return original(self, index)

    monkeypatch.setattr(DrawnMixtures, "__getitem__", noted)
    conf = conf_with({"overfit_batches": 2, "accumulate": 2, "max_steps": 30, "lr": 1e-2, "valid_every": 100})
    run(conf, corpus, corpus_dir, tmp_path)
    assert drawn == list(range(8)) * 15
    losses = [line["neg_si_sdr"] for line in lines_of(tmp_path / "log" / "train.jsonl")]
    assert sum(losses[-2:]) < sum(losses[:2]) - 1


@pytest.mark.slow
def test_compiled_it_learns_the_same(corpus, corpus_dir, tmp_path, monkeypatch):
    compiled, original = [], torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compiled.append(1) or original(function, backend="eager")
    )
    one = run(conf_with({"max_steps": 2}), corpus, corpus_dir, tmp_path / "a")
    other = run(conf_with({"max_steps": 2, "compile": True}), corpus, corpus_dir, tmp_path / "b")
    assert len(compiled) == 1
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(other.model.state_dict()[name], value)
    assert checkpoint.load(tmp_path / "b" / "best.pt")["modules"]["model"].keys() == one.model.state_dict().keys()


@pytest.mark.parametrize("wanted", [True, False])
def test_tf32_is_switched(wanted):
    conf = conf_with({"tf32": wanted})
    new_run(conf, new_state(conf, CPU), CPU)
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == wanted


def test_recomputed_activations_give_the_same_step(corpus, corpus_dir, tmp_path):
    kept = run(conf_with({"max_steps": 3}), corpus, corpus_dir, tmp_path / "a")
    model = {**conf_with().model.params, "gradient_checkpointing": True}
    conf = conf_with({"max_steps": 3}, model={"params": model})
    again = run(conf, corpus, corpus_dir, tmp_path / "b")
    assert_equal(dict(kept.model.state_dict()), dict(again.model.state_dict()))


def test_weights_of_another_model_are_not_begun_with(tmp_path):
    conf = conf_with()
    state = new_state(conf, CPU)
    saving.save_last(state.to_checkpoint(conf), conf, tmp_path)
    again = new_state(conf_with({"init_from": str(tmp_path / "last.pt")}), CPU)
    assert_equal(dict(again.model.state_dict()), dict(state.ema.module.state_dict()))
    with pytest.raises(ValueError, match=r"last.pt: of another model; missing here \[.*film"):
        new_state(
            conf_with({"init_from": str(tmp_path / "last.pt")}, model={"params": {**conf.model.params, "film": False}}),
            CPU,
        )
    wider = {**conf.model.params, "lstm_hidden": 9}
    with pytest.raises(ValueError, match=r"last.pt: of a model with other options; .*size mismatch"):
        new_state(conf_with({"init_from": str(tmp_path / "last.pt")}, model={"params": wider}), CPU)
