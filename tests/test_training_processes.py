"""Trainings as their users start them: killed at any moment, asked to stop, on several processes."""

import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import yaml

from tests import tiny
from tests.test_discriminators import NARROW
from tests.test_matrix import params_of
from tests.test_speaker_loss import SPEX
from tests.test_training import assert_equal, lines_of, without_clock
from tse_lib import checkpoint
from tse_lib.bin.main import main
from tse_lib.bin.train import num_processes
from tse_lib.data.dataset import RenderedMixtures
from tse_lib.models import build_model
from tse_lib.training.trainer import validate

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
GAN = {
    "discriminator": {"name": "mpd_msd", "params": NARROW},
    "lr": 1e-3,
    "discriminator_only_steps": 30,
    "ramp_steps": 30,
    "adversarial_weight": 0.1,
    "feature_weight": 2.0,
    "stop_after": 0,
}


def command(exp, corpus_dir, conf_path, nproc=1):
    words = ["train", "--conf", conf_path, "--exp", exp, "--data", corpus_dir, "--noise", "noise", "--device", "cpu"]
    return [sys.executable, "-m", "tse_lib.bin.main", *map(str, words), "--threads", "1", "--nproc", str(nproc)]


def train(*arguments):
    subprocess.run(command(*arguments), env=ENVIRONMENT, check=True, capture_output=True, timeout=300)


def write_conf(path, losses=(), **train):
    """The tiny conf with more losses, and with other values in its section `train`."""
    wanted = tiny.values()
    wanted["loss"] += losses
    wanted["train"].update(train)
    path.write_text(yaml.safe_dump(wanted))
    return path


def trainers(exp):
    """The processes of a run, its launcher and those that draw, too."""
    found = []
    for pid in os.listdir("/proc"):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if pid.isdigit() and str(exp).encode() in file.read().split(b"\0"):
                    found.append(int(pid))
        except OSError:
            continue  # it ended
    return found


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def start_and_wait_for_steps(words, exp):
    """The process, once it has trained on."""
    process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = exp / "log" / "train.jsonl"
    size = log.stat().st_size if log.exists() else 0
    wait_until(lambda: process.poll() is not None or (log.exists() and log.stat().st_size > size))
    return process


def kill_and_resume(tmp_path, corpus_dir, kills, nproc=1, **train_values):
    """Train once in peace, once killed at random moments (any of its processes first); the folders of both."""
    conf = write_conf(tmp_path / "conf.yaml", **train_values)
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    train(calm, corpus_dir, conf, nproc)
    draw, killed = random.Random(0), 0
    for _ in range(kills):
        process = start_and_wait_for_steps(command(rough, corpus_dir, conf, nproc), rough)
        time.sleep(draw.uniform(0, 0.5))
        victims = [process.pid, *sorted(set(trainers(rough)) - {process.pid})]
        victim = victims[draw.randrange(len(victims))]
        if process.poll() is None:
            os.kill(victim, signal.SIGKILL)
            killed += 1
        process.communicate(timeout=60)
        assert process.returncode != 0 or victim != process.pid
        wait_until(lambda: not trainers(rough), 20)  # none survives the others
    assert killed >= max(1, kills - 1), "the run was over before it could be killed"
    train(rough, corpus_dir, conf, nproc)
    return calm, rough


def assert_same_run(calm, rough):
    for name in ("last.pt", "best.pt"):
        assert_equal(without_clock(checkpoint.load(calm / name)), without_clock(checkpoint.load(rough / name)), name)
    for name in ("train", "valid"):
        both = [lines_of(exp / "log" / f"{name}.jsonl") for exp in (calm, rough)]
        assert [without_clock(line) for line in both[0]] == [without_clock(line) for line in both[1]]


def test_a_killed_run_ends_as_one_that_was_not(tmp_path, corpus_dir):
    """Every tensor of last.pt and best.pt, the logs, and no temporary file in use."""
    assert_same_run(*kill_and_resume(tmp_path, corpus_dir, 1, max_steps=60, save_every=7, valid_every=20))


@pytest.mark.slow
def test_a_run_killed_many_times_ends_as_one_that_was_not(tmp_path, corpus_dir):
    """Two processes, each with one that draws; in the middle of accumulation as well."""
    options = {"max_steps": 800, "save_every": 3, "valid_every": 20, "batch_size": 2, "accumulate": 2, "keep_last": 3}
    assert_same_run(*kill_and_resume(tmp_path, corpus_dir, 20, 2, num_workers=1, bf16=True, **options))


@pytest.mark.slow
def test_a_gan_killed_many_times_ends_as_one_that_was_not(tmp_path, corpus_dir):
    options = {"step": "gan", "gan": GAN, "max_steps": 150, "save_every": 4, "valid_every": 25, "accumulate": 2}
    assert_same_run(*kill_and_resume(tmp_path, corpus_dir, 5, 2, **options))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("whom", ["launcher", "one", "all"])
def test_asked_to_stop_all_processes_save_and_want_to_be_started_again(tmp_path, corpus_dir, number, whom):
    """Whether the signal comes to the one that started them, to one of them, or to each, as a queue sends it."""
    exp, conf = (
        tmp_path / "exp",
        write_conf(tmp_path / "conf.yaml", max_steps=100_000, valid_every=10_000, num_workers=1),
    )
    process = start_and_wait_for_steps(command(exp, corpus_dir, conf, 2), exp)
    every = trainers(exp)
    ranks = [pid for pid in every if parent_of(pid) == process.pid]
    assert len(ranks) == 2 and len(every) == 5
    for pid in {"launcher": [process.pid], "one": ranks[1:], "all": every}[whom]:
        os.kill(pid, number)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 75, told
    assert told.count("is finished and saved; start it again") == 1
    assert checkpoint.load(exp / "last.pt")["step"] == lines_of(exp / "log" / "train.jsonl")[-1]["step"]
    assert trainers(exp) == []


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])


@pytest.mark.slow
def test_what_one_process_says_ends_all(tmp_path, corpus_dir):
    conf = write_conf(tmp_path / "conf.yaml", batch_size=3)
    run = subprocess.run(
        [*command(tmp_path / "exp", corpus_dir, conf), "--nproc", "3", "--set", "simulation.num_talkers=9"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 4 and "Traceback" not in run.stderr and "talkers" in run.stderr


def test_a_second_training_in_a_folder_is_refused(tmp_path, corpus_dir):
    conf, exp = (
        write_conf(tmp_path / "conf.yaml", max_steps=100_000, valid_every=100_000, num_workers=1),
        tmp_path / "exp",
    )
    process = start_and_wait_for_steps(command(exp, corpus_dir, conf), exp)
    second = subprocess.run(
        command(exp, corpus_dir, conf), env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert second.returncode == 1 and f"{exp}: another training runs here" in second.stderr
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75
    steps = [line["step"] for line in lines_of(exp / "log" / "train.jsonl")]
    assert steps == list(range(1, len(steps) + 1)) and checkpoint.load(exp / "last.pt")["step"] == steps[-1]


def test_a_process_takes_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [num_processes("auto", device, 6) for device in ("auto", "cuda", "cuda:1")] == [3, 3, 1]
    assert num_processes("2", "cuda", 6) == 2 and num_processes("6", "cpu", 6) == 6
    for wanted, device in (("6", "auto"), ("2", "cuda:1")):
        with pytest.raises(ValueError, match=f"--nproc {wanted}: each process takes a GPU"):
            num_processes(wanted, device, 6)


def test_gpus_that_are_not_there_are_named(tmp_path, corpus_dir, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    conf = write_conf(tmp_path / "conf.yaml")
    words = [*command(tmp_path / "exp", corpus_dir, conf, "auto")[3:], "--device", "cuda"]
    assert main(words) == 4 and "torch sees no CUDA device" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("step", ["supervised", "gan", "distill"])
def test_processes_and_accumulation_change_nothing_but_rounding(tmp_path, corpus_dir, step):
    """20 steps of 8 mixtures: 1 process x 4 batches, 2 x 2, 4 x 1. For all three the same losses within 1e-5."""
    sections = {"supervised": {}, "gan": {"gan": {**GAN, "discriminator_only_steps": 4, "ramp_steps": 4}}}
    sections["distill"] = {"distill": {"teacher": str(tiny.make_checkpoint(tmp_path / "teacher.pt")), "weight": 0.5}}
    sections["distill"]["distill"] |= {"features": {"gridnet": "gridnet"}, "feature_weight": 1.0}
    more = [{"name": "l1", "weight": "learned"}] if step == "supervised" else []
    logs, states = {}, {}
    for nproc, size, accumulate in ((1, 2, 4), (2, 4, 2), (4, 8, 1)):
        values = {"max_steps": 20, "batch_size": size, "accumulate": accumulate, "valid_every": 20, "step": step}
        conf = write_conf(tmp_path / f"{nproc}.yaml", more, **values, **sections[step])
        train(tmp_path / f"exp{nproc}", corpus_dir, conf, nproc)
        logs[nproc] = lines_of(tmp_path / f"exp{nproc}" / "log" / "train.jsonl")
        states[nproc] = checkpoint.load(tmp_path / f"exp{nproc}" / "last.pt")
    assert len(logs[1]) == 20
    for nproc in (2, 4):
        for one, other in zip(logs[1], logs[nproc], strict=True):
            for name in without_clock(one):
                assert other[name] == pytest.approx(one[name], rel=1e-5, abs=1e-5), (nproc, one["step"], name)
        assert states[nproc]["processes"] == nproc and states[nproc]["best"] == pytest.approx(
            states[1]["best"], abs=1e-4
        )


@pytest.mark.slow
def test_parameters_that_lead_nowhere_are_not_waited_for(tmp_path, corpus_dir):
    """Two processes train a network whose last residuals lead nowhere as one does, but for rounding."""
    states = []
    for nproc in (1, 2):
        conf = write_conf(tmp_path / "conf.yaml", max_steps=3)
        wanted = yaml.safe_load(conf.read_text())
        sizes = {"num_filters": 12, "bottleneck_dim": 6, "hidden_dim": 10, "skip_dim": 6, "num_blocks": 2}
        more = {"num_repeats": 1, "adapt_at": 0, "embedding_dim": 6}
        wanted["model"] = {"name": "td_speakerbeam", "params": {**sizes, **more}}
        conf.write_text(yaml.safe_dump(wanted))
        train(tmp_path / f"exp{nproc}", corpus_dir, conf, nproc)
        states.append(checkpoint.load(tmp_path / f"exp{nproc}" / "last.pt")["modules"]["model"])
    one, two = states
    assert all(torch.allclose(one[key], two[key], rtol=1e-3, atol=1e-5) for key in one)


@pytest.mark.slow
def test_a_classifier_that_is_heard_later_is_not_waited_for(tmp_path, corpus_dir):
    """At first the loss on speakers has the weight 0: its classifier stays as it is, on two processes as on one."""
    states = []
    for nproc in (1, 2):
        speakers = {"name": "speaker_cross_entropy", "weight": {0: 0, 3: 0, 5: 0.5}}
        conf = write_conf(tmp_path / "conf.yaml", [speakers], max_steps=6, valid_every=6)
        wanted = yaml.safe_load(conf.read_text())
        wanted["model"] = {"name": "conditioned", "params": params_of("dprnn", "film")}
        conf.write_text(yaml.safe_dump(wanted))
        train(tmp_path / f"exp{nproc}", corpus_dir, conf, nproc)
        states.append(checkpoint.load(tmp_path / f"exp{nproc}" / "last.pt"))
    one, two = ({**state["modules"]["model"], **state["modules"]["classifier"]} for state in states)
    assert all(torch.allclose(one[key], two[key], rtol=1e-3, atol=1e-5) for key in one)
    assert [int(state["optimizers"]["classifier"]["state"][0]["step"]) for state in states] == [2, 2]


@pytest.mark.slow
def test_all_processes_validate_the_network_that_is_kept(tmp_path, corpus_dir):
    """Batch norms have seen other mixtures in each process; those of the first are in best.pt."""
    conf = write_conf(tmp_path / "conf.yaml", lr=1e-2, ema_decay=0.0, valid_every=8)
    wanted = yaml.safe_load(conf.read_text())
    wanted["model"] = {"name": "spex_plus", "params": SPEX}
    conf.write_text(yaml.safe_dump(wanted))
    train(tmp_path / "exp", corpus_dir, conf, 2)
    best = checkpoint.load(tmp_path / "exp" / "best.pt")
    model = build_model("spex_plus", SPEX, tiny.RATE)
    model.load_state_dict(best["modules"]["model"])
    dev = RenderedMixtures(str(corpus_dir / "dev"), tiny.RATE)
    scores = validate(model, dev, torch.device("cpu"), torch.autocast("cpu", enabled=False))
    assert best["best"] == pytest.approx(scores["si_sdri"], abs=1e-4)


@pytest.mark.slow
def test_going_on_with_more_processes_draws_the_same(tmp_path, corpus_dir):
    conf = write_conf(tmp_path / "conf.yaml", max_steps=300, save_every=5, valid_every=300)
    train(tmp_path / "calm", corpus_dir, conf)
    process = start_and_wait_for_steps(command(tmp_path / "exp", corpus_dir, conf), tmp_path / "exp")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75
    begun = len(lines_of(tmp_path / "exp" / "log" / "train.jsonl"))
    assert begun < 290
    told = subprocess.run(
        command(tmp_path / "exp", corpus_dir, conf, 2), env=ENVIRONMENT, check=True, capture_output=True, text=True
    ).stdout
    assert told.count("2 processes, before there were 1: the same mixtures, but sums are rounded otherwise") == 1
    calm, mixed = (lines_of(tmp_path / exp / "log" / "train.jsonl") for exp in ("calm", "exp"))
    for one, other in list(zip(calm, mixed, strict=True))[: begun + 10]:
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4, abs=1e-4)


def test_one_of_several_processes_ends_without_pythons_own_end():
    """What torch's process group leaves behind may abort the process there, after all the work was done."""
    code = "import atexit, os, runpy, sys; atexit.register(os.abort); sys.argv[1:] = ['--version']; "
    code += "runpy.run_module('tse_lib.bin.main', run_name='__main__')"
    several, alone = ENVIRONMENT | {"WORLD_SIZE": "2"}, {**ENVIRONMENT}
    for environment, wanted in ((several, 0), (alone, -signal.SIGABRT)):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == wanted
        assert done.stdout.strip()


@pytest.mark.slow
def test_two_nodes_of_torchrun_are_two_processes(tmp_path, corpus_dir):
    """Two agents on this machine stand for two machines that see the same folder: the same bits as with --nproc 2."""
    conf = write_conf(tmp_path / "conf.yaml", valid_every=4, num_workers=1)
    train(tmp_path / "own", corpus_dir, conf, 2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d", "--local_addr", "127.0.0.1"]
    words += ["--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "1", "--rdzv_conf", "join_timeout=60"]
    python, *verb = command(tmp_path / "exp", corpus_dir, conf)[:-2]  # torchrun has a --nproc of its own
    nodes = [
        subprocess.Popen(
            [python, "-m", "torch.distributed.run", *words, *verb],
            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        told = [node.communicate(timeout=200)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], told
    assert "".join(told).count("8 steps in") == 1  # only one of them tells
    assert checkpoint.load(tmp_path / "exp" / "last.pt")["processes"] == 2
    assert_same_run(tmp_path / "own", tmp_path / "exp")
