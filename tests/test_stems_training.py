"""Stems from a training to the scores: outputs keep their names and order, silent stems count nowhere."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.test_stems import RATE, STEMS, data, experiment  # noqa: F401  (a fixture)
from tse_lib import audio, checkpoint, load
from tse_lib.bin.main import main
from tse_lib.bin.render import write_rendered
from tse_lib.config import Sets, build
from tse_lib.data.dataset import RenderedMixtures, collate
from tse_lib.data.stems import StemMixtures
from tse_lib.dsp.filters import a_weighting, mel_bank
from tse_lib.evaluation.results import results_markdown
from tse_lib.evaluation.score import score_mixture, score_stems
from tse_lib.evaluation.summary import summarise
from tse_lib.losses import LOSSES
from tse_lib.losses.stems import masked_mse, multi_resolution_mel, neg_snr_or_silence, relative_error
from tse_lib.manifest import Mixture, Stem, audio_path, write_mixtures
from tse_lib.metrics.sdr import Undefined, track_sdr
from tse_lib.models import build_model, num_sources_of
from tse_lib.simulation.stems import read_stem_corpus, stem_set
from tse_lib.training.state import new_state
from tse_lib.training.steps import distill_step, new_run, supervised_step
from tse_lib.training.trainer import separate_item, train, validate_stems

CPU = torch.device("cpu")
NO_CAST = torch.autocast("cpu", enabled=False)


@pytest.fixture(scope="module")
def dev_dir(data, tmp_path_factory):  # noqa: F811
    """A rendered set of stems, one of which is silent in its second mixture."""
    folder = tmp_path_factory.mktemp("stems_dev") / "dev"
    one = {"num_mixtures": 2, "tracks": "dev", "simulation": {"stems": list(STEMS), "segment_s": 1.5, "gain_db": 0}}
    mixtures = stem_set(data, "dev", build(Sets, {"seed": 1, "sample_rate": RATE, "sets": {"dev": one}}, "sets"))
    second = mixtures[1]
    quiet = tuple(Stem(stem.name, stem.origin) if stem.name == "toms" else stem for stem in second.stems)
    mixtures[1] = Mixture(**{**vars(second), "stems": quiet})
    write_mixtures(folder / "mixtures.jsonl", mixtures)
    for mixture in mixtures:
        write_rendered(str(folder), mixture)
    return folder


def corpus_of(data):  # noqa: F811
    return read_stem_corpus([data / "train"], experiment().simulation, RATE)


# -------------------------------------------------------------------------------------------------------------- losses


def signals():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(3, 4, 2, 4000, generator=generator, dtype=torch.float64)
    target[:, 3] = 0  # a silent stem
    return target, generator


def test_snr_of_what_is_heard_and_level_of_what_is_silent():
    target, _ = signals()
    mixture = target.sum(1)
    estimate = 0.9 * target
    estimate[:, 3] = 0.1 * mixture
    tau = 10**-3
    expected = 3 * 10 * math.log10(0.01 + tau) + 10 * math.log10(0.01 + 0.1)
    torch.testing.assert_close(
        neg_snr_or_silence(estimate, target), torch.full((3,), expected / 4, dtype=torch.float64)
    )
    assert neg_snr_or_silence(target, target).tolist() == pytest.approx([-(3 * 30 + 10) / 4] * 3)
    estimate.requires_grad_()
    (gradient,) = torch.autograd.grad(neg_snr_or_silence(estimate, target).sum(), estimate)
    assert gradient.isfinite().all() and gradient[:, 3].abs().sum() > 0


def test_a_quiet_stem_may_be_called_silent():
    target, _ = signals()
    target[:, 3] = 0.01 * target[:, 0]
    estimate = target.clone()
    estimate[:, 3] = 2 * target[:, 3]  # twice as loud as it should be
    heard, silent = (neg_snr_or_silence(estimate, target, silent_db=db) for db in (-60.0, -25.0))
    assert (heard > silent + 2.4).all()  # an error of 0 dB of four sources, or one of -40 dB, which is all but right
    assert silent.tolist() == pytest.approx([-(3 * 30 + 10) / 4] * 3, abs=0.01)


def test_relative_error_of_loud_quiet_and_silent_stems():
    target, _ = signals()
    target[:, 2] *= 0.01  # 40 dB below
    mixture = target.sum(1).square().sum((1, 2))
    quiet = target[:, 2].square().sum((1, 2)) / (0.1 * mixture)
    torch.testing.assert_close(relative_error(0 * target, target), (2 + quiet) / 4)
    assert relative_error(target, target).tolist() == [0, 0, 0]


def test_masked_mse_leaves_the_worst_item_of_each_source_out():
    target, generator = signals()
    error = torch.randn(target.shape, generator=generator, dtype=torch.float64)
    error = error / error.square().mean((2, 3), keepdim=True).sqrt()
    sizes = torch.tensor([[1.0, 2.0, 3.0, 6.0], [2.0, 1.0, 1.0, 5.0], [3.0, 3.0, 2.0, 4.0]], dtype=torch.float64)
    values = masked_mse(target + error * sizes[..., None, None], target, q=0.5)
    kept = torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 16]], dtype=torch.float64)  # below the median, squared
    torch.testing.assert_close(values, kept.mean(1))
    fine = masked_mse(target + error, target, q=0.95, coarse=False)
    squares = error.square().transpose(0, 1).flatten(1)
    limit = torch.quantile(squares, 0.95, dim=1, keepdim=True)
    torch.testing.assert_close(fine.mean(), (squares * (squares < limit)).mean())


def test_mel_loss_of_a_scaled_target():
    target, _ = signals()
    values = multi_resolution_mel(0.5 * target[:, :3], target[:, :3], 44100, 64, ((512, 512, 128),))
    expected = 0.5 + math.log(2)  # of convergence and of log magnitude, whatever the bands
    torch.testing.assert_close(values, torch.full((3,), expected, dtype=torch.float64), rtol=1e-3, atol=0)
    assert multi_resolution_mel(target, target).tolist() == [0, 0, 0]
    silent = multi_resolution_mel(0.1 + 0 * target, 0 * target)
    assert silent.isfinite().all() and (silent < 20).all()


@pytest.mark.parametrize("name", ["neg_snr_or_silence", "relative_error", "masked_mse", "multi_resolution_mel", "l1"])
def test_losses_of_all_silence_are_finite(name):
    target = torch.zeros(2, 5, 2, 4000)
    estimate = torch.full_like(target, 1e-3).requires_grad_()
    value = LOSSES[name](estimate, target)
    (gradient,) = torch.autograd.grad(value.sum(), estimate)
    assert value.isfinite().all() and gradient.isfinite().all() and value.abs().max() < 110


def test_a_weighting_and_mel_filters():
    gains = 20 * a_weighting(torch.tensor([31.5, 100.0, 1000.0, 4000.0, 16000.0])).log10()
    torch.testing.assert_close(gains, torch.tensor([-39.4, -19.1, 0.0, 1.0, -6.6]), atol=0.15, rtol=0)  # IEC 61672-1
    bank = mel_bank(44100, 2048, 128)
    assert bank.shape == (128, 1025) and (bank >= 0).all()
    areas = bank.sum(1) * 44100 / 2048
    torch.testing.assert_close(areas[40:], torch.ones(88, dtype=torch.float64), atol=0.05, rtol=0)
    assert (bank.argmax(1).diff() >= 0).all() and bank[-1].nonzero().max() >= 1023


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"loss": [{"name": "pit", "weight": 1.0}]}, "stems have names"),
        ({"inference": {"source_names": ["a", "b", "c", "d", "e"]}}, "in this order"),
        ({"inference": {"stitch": True}}, "stitch"),
        ({"loss": [{"name": "masked_mse", "weight": 1.0}], "train": {"batch_size": 1}}, "leaves nothing"),
        ({"simulation": {"whole": True}}, "segment_s"),
        ({"simulation": {"stems": ["kick", "snare"]}}, "num_sources 5, simulation.stems"),
    ],
)
def test_what_does_not_fit_stems_is_refused(change, fault):
    with pytest.raises(ValueError, match=fault):
        conf = experiment(**change)
        new_run(conf, new_state(conf, CPU), CPU)


def test_names_order_and_level_go_with_the_model():
    inference = experiment(inference={"chunk_s": 0.5}).inference
    assert inference.source_names == STEMS and not inference.stitch and inference.level == "model"
    assert inference.chunk_s == 0.5


def test_outputs_learn_their_own_stem(data):  # noqa: F811
    """The gradient of an exchanged pair of targets is not that of the right order: no permutation is sought."""
    conf = experiment(train={"batch_size": 2})
    batch = collate([StemMixtures(corpus_of(data), conf)[index] for index in range(2)])
    losses = []
    for order in ([0, 1, 2, 3, 4], [1, 0, 2, 3, 4]):
        state = new_state(conf, CPU)
        run = new_run(conf, state, CPU)
        scalars = supervised_step(
            state, run, [batch | {"target": batch["target"][:, order]}], {"present": 2, "absent": 0}
        )
        losses.append(float(scalars["loss"]))
    assert losses[0] != losses[1]


def test_a_long_mixture_is_validated_in_chunks_of_the_training():
    class Mean(torch.nn.Module):
        """Takes the mean of its input off, which shows what it was given at once."""

        def forward(self, mixture):
            assert mixture.shape[-1] in (4, 10)
            return (mixture - mixture.mean(-1, keepdim=True))[:, None]

    item = {"mix_id": "m", "mixture": torch.arange(20.0).view(2, 10), "target": torch.zeros(1, 2, 10), "enrolls": [],
            "present": True}  # fmt: skip
    estimate = separate_item(Mean(), item, CPU, NO_CAST, chunk=4)[0]
    ramp = torch.tensor([-1.5, -0.5, 0.5, 1.5])
    torch.testing.assert_close(estimate[0], torch.cat([ramp, ramp[:2], ramp]))  # the last chunk ends with the mixture
    assert separate_item(Mean(), item, CPU, NO_CAST).shape == (1, 2, 10)


def test_validation_skips_silent_stems(dev_dir):
    dev = RenderedMixtures(str(dev_dir), RATE)

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.items = iter([dev[0]["target"], dev[1]["target"]])

        def forward(self, mixture):
            return 0.9 * next(self.items)[None]

    scores = validate_stems(Scaled(), dev, CPU, NO_CAST, 0)
    assert scores["sdr"] == pytest.approx(20, abs=0.1)
    assert {name for name in scores if name.startswith("sdr_")} == {f"sdr_{stem}" for stem in STEMS}
    assert scores["si_sdri"] > 50  # a scale is forgiven


def test_training_chooses_by_sdr_and_goes_on_to_the_same_weights(data, dev_dir, tmp_path):  # noqa: F811
    conf = experiment(train={"max_steps": 4, "batch_size": 1, "valid_every": 4, "save_every": 2})
    state = train(conf, corpus_of(data), str(dev_dir), tmp_path / "whole", CPU)
    log = json.loads((tmp_path / "whole/log/valid.jsonl").read_text().splitlines()[-1])
    assert state.best == pytest.approx(log["sdr"]) and {"si_sdri", "sdr_kick"} <= set(log)
    separator = load(tmp_path / "whole" / "best.pt")
    assert separator.source_names == STEMS and num_sources_of("tfc_tdf", conf.model.params) == 5
    half = conf.model_copy(update={"train": conf.train.model_copy(update={"max_steps": 4, "keep_last": 9})})
    train(half, corpus_of(data), str(dev_dir), tmp_path / "parts", CPU)
    for name in ("step_00000004.pt", "last.pt", "best.pt"):
        (tmp_path / "parts" / name).unlink()
    again = train(half, corpus_of(data), str(dev_dir), tmp_path / "parts", CPU)
    for one, other in zip(state.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_prodigy_trains_and_goes_on(data, dev_dir, tmp_path):  # noqa: F811
    pytest.importorskip("prodigyopt")
    options = {"optimizer": "prodigy", "lr": 1.0, "batch_size": 1, "valid_every": 4, "save_every": 2, "keep_last": 9}
    conf = experiment(train={**options, "max_steps": 4})
    first = train(conf, corpus_of(data), str(dev_dir), tmp_path / "exp", CPU)
    assert type(first.parts["model"].optimizer).__name__ == "Prodigy"
    for name in ("step_00000004.pt", "last.pt", "best.pt"):
        (tmp_path / "exp" / name).unlink()
    again = train(conf, corpus_of(data), str(dev_dir), tmp_path / "exp", CPU)
    for one, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_student_learns_its_teachers_outputs_in_their_order(data, dev_dir, tmp_path):  # noqa: F811
    conf = experiment(train={"max_steps": 1, "batch_size": 1, "valid_every": 1})
    train(conf, corpus_of(data), str(dev_dir), tmp_path / "teacher", CPU)
    distill = {"step": "distill", "distill": {"teacher": str(tmp_path / "teacher" / "best.pt"), "weight": 1.0}}
    student = experiment(train={**distill, "max_steps": 1, "batch_size": 1, "valid_every": 1})
    train(student, corpus_of(data), str(dev_dir), tmp_path / "student", CPU)
    line = json.loads((tmp_path / "student/log/train.jsonl").read_text().splitlines()[-1])
    assert line["soft"] == pytest.approx(-30, abs=1.5) or line["soft"] < 0  # the same weights: as near as it can be


@pytest.mark.parametrize("options", [{"silent_db": 3.0}, {"max_db": 20.0}, {}])
def test_what_a_teacher_leaks_is_judged_by_the_options_of_the_confs_own_loss(data, tmp_path, options):  # noqa: F811
    teacher = build_model("tfc_tdf", experiment().model.params, RATE, "separate")
    saved = {"modules": {"model": teacher.state_dict()}, "config": experiment().model_dump(mode="json")}
    checkpoint.save(tmp_path / "teacher.pt", saved)
    loss = (
        [{"name": "neg_snr_or_silence", "weight": 1.0, "params": options}] if options else [{"name": "l1", "weight": 1}]
    )
    distill = {"step": "distill", "distill": {"teacher": str(tmp_path / "teacher.pt"), "weight": 1.0}}
    conf = experiment(loss=loss, train=distill)
    drawn = StemMixtures(corpus_of(data), conf)
    batch = collate([drawn[0], drawn[1]])
    state = new_state(conf, CPU)
    with torch.no_grad():
        student, soft = state.model(batch["mixture"]), teacher.eval()(batch["mixture"])
    told = distill_step(state, new_run(conf, state, CPU), [batch], {"present": 2, "absent": 0})["soft"]
    assert float(told) == pytest.approx(float(neg_snr_or_silence(student, soft, **options).mean()), abs=1e-4)


@pytest.mark.slow
def test_two_processes_learn_stems_as_one_does(data, dev_dir, tmp_path):  # noqa: F811
    """4 steps of 4 mixtures: the same losses but for rounding, and the same score on dev."""
    for name, source in (("train", data / "train"), ("dev", dev_dir)):
        (tmp_path / name).symlink_to(source)
    logs, best = [], []
    for nproc in (1, 2):
        values = {"max_steps": 4, "valid_every": 4, "batch_size": 4, "log_every": 1}
        conf, exp = tmp_path / f"{nproc}.yaml", tmp_path / f"exp{nproc}"
        wanted = experiment(train=values).model_dump(mode="json")
        conf.write_text(json.dumps({**wanted, "schedule": {}, "curriculum": []}))
        words = ["train", "--conf", conf, "--data", tmp_path, "--exp", exp, "--device", "cpu", "--threads", "1"]
        command = [sys.executable, "-m", "tse_lib.bin.main", *map(str, words), "--nproc", str(nproc)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        logs.append([json.loads(line)["loss"] for line in (exp / "log/train.jsonl").read_text().splitlines()])
        best.append(checkpoint.load(exp / "last.pt")["best"])
    assert len(logs[0]) == 4 and logs[1] == pytest.approx(logs[0], rel=1e-4)
    assert best[1] == pytest.approx(best[0], abs=1e-2)


def test_training_on_what_it_is_chosen_by_is_refused(data, dev_dir, tmp_path, capsys):  # noqa: F811
    conf = tmp_path / "conf.yaml"
    conf.write_text(json.dumps({**experiment().model_dump(mode="json"), "schedule": {}, "curriculum": []}))
    for name in ("train", "dev"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for table in (data / "dev").glob("*.jsonl"):
            (tmp_path / "data" / name / table.name).write_text(table.read_text())
    (tmp_path / "data/dev/mixtures.jsonl").write_text((dev_dir / "mixtures.jsonl").read_text())
    arguments = ["train", "--conf", str(conf), "--data", str(tmp_path / "data"), "--exp", str(tmp_path / "exp")]
    assert main([*arguments, "--device", "cpu"]) == 4
    assert "of its tracks are trained on" in capsys.readouterr().err
    assert main([*arguments, "--device", "cpu", "--noise", "noise"]) == 4
    assert "not with simulation.stems" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- scoring


def test_the_sdr_of_a_track():
    generator = np.random.default_rng(0)
    reference = generator.standard_normal((2, 8000))
    error = generator.standard_normal((2, 8000))
    error *= np.sqrt((reference**2).sum() / (error**2).sum()) * 10 ** (-12 / 20)
    assert track_sdr(reference, reference + error) == pytest.approx(12, abs=1e-6)
    assert track_sdr(reference, 0.5 * reference) == pytest.approx(20 * math.log10(2), abs=1e-6)  # no scale is forgiven
    assert track_sdr(reference, 0 * reference) == 0 and track_sdr(reference, reference) == 100
    with pytest.raises(Undefined, match="silent reference"):
        track_sdr(reference * 1e-4, reference)


def test_scores_of_stems_heard_and_silent():
    generator = np.random.default_rng(0)
    references = generator.standard_normal((3, 2, 2 * RATE)) * 0.1
    references[2] = 0
    mixture = references.sum(0)
    estimates = references * 0.5
    estimates[2] = 0.01 * mixture
    heard, other, silent = score_stems(references, estimates, mixture, RATE)
    assert heard["usdr"] == pytest.approx(6.02, abs=0.01) and heard["usdri"] == pytest.approx(6.02, abs=0.2)
    assert heard["si_sdr"] == 100 and heard["target_present"] and "csdr" not in heard
    assert silent == {"target_present": False, "ta_attenuation_db": pytest.approx(40, abs=0.01), "false_accept": False}


def test_museval_agrees_with_what_it_is_given():
    pytest.importorskip("mir_eval")
    if not pytest.importorskip("importlib.util").find_spec("museval"):
        pytest.skip("museval is not installed")
    generator = np.random.default_rng(0)
    references = generator.standard_normal((2, 1, 2 * RATE)) * 0.1
    noise = generator.standard_normal(references.shape) * 0.01
    first, second = score_stems(references, references + noise, references.sum(0), RATE, museval=True)
    assert (
        first["csdr"] == pytest.approx(20, abs=1) and first["csar"] == pytest.approx(20, abs=1) and first["csir"] > 25
    )
    assert second["cisr"] > 20


@pytest.mark.parametrize("silenced", ["one estimate", "one estimate's channels cancel"])
def test_an_output_without_a_sound_has_no_frames(silenced):
    """museval refuses such a track: that must not end the scoring of a set."""
    references = 0.1 * np.random.default_rng(0).standard_normal((2, 2, 2 * RATE))
    estimates = references.copy()
    estimates[1] = 0 if silenced == "one estimate" else [[0.1], [-0.1]]
    for line in score_stems(references, estimates, references.sum(0), RATE, museval=True):
        assert line["csdr"] is None and "no frame of 1 s" in line["reasons"]["csdr"] and line["usdr"] is not None


def test_files_are_scored_by_name_and_told_by_stem(dev_dir, tmp_path):
    mixtures = RenderedMixtures(str(dev_dir), RATE).mixtures
    lines = []
    for mixture in mixtures:
        for stem in STEMS:
            wave = audio.read(audio_path(dev_dir, stem, mixture.mix_id), mono=False)[0]
            audio.write(tmp_path / "wav" / stem / f"{mixture.mix_id}.wav", 0.9 * wave, RATE)
        lines += score_mixture(dev_dir, tmp_path / "wav", mixture, {})
    assert [line["stem"] for line in lines] == [*STEMS, *STEMS] and [line["source"] for line in lines][:2] == [1, 2]
    assert [line["target_present"] for line in lines].index(False) == 7 and sum(
        not one["target_present"] for one in lines
    ) == 1
    assert all(line["usdr"] == pytest.approx(20, abs=0.01) for line in lines if line["target_present"])
    summary = summarise(lines)
    assert summary["stems"] == list(STEMS) and summary["n_absent"] == 1
    assert summary["metrics"]["usdr_over_stems"] == {
        "mean": pytest.approx(20, abs=0.01),
        "ci95": None,
        "std": None,
        "n": 5,
    }
    assert summary["groups"]["stem=toms"]["usdr"]["n"] == 1
    page = results_markdown([{**summary, **FACTS}])
    assert "| experiment | set | mean | kick | snare | toms | hihat | cymbals | SI-SDRi | false accepts |" in page
    assert "| [small](#small) | dev | 20.00 | 20.00 [" in page and "| toms | 1 | 1 | 20.00 |" in page
    assert "10 stems (9 heard, 1 silent), 8000 Hz; a stem is silent below -60 dBFS" in page
    audio.write(tmp_path / "wav" / "kick" / f"{mixtures[0].mix_id}.wav", wave[0], RATE)
    with pytest.raises(ValueError, match="1 channels, the mixture has 2"):
        score_mixture(dev_dir, tmp_path / "wav", mixtures[0], {})


FACTS = {
    "conf": "conf/small.yaml", "seed": 0, "commit": "c", "command": "", "exp": "small", "set": "dev",
    "sample_rate": RATE, "reference": "stems", "machine": {"cpu": "c", "cores": 2}, "training": None, "network": None,
}  # fmt: skip
