"""tools/matrix.py: every pair is a conf; a network that listens to its enrolment is told from one that does not."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tse_lib import audio
from tse_lib.config import Config, build
from tse_lib.manifest import audio_path, read_data_dir, read_mixtures
from tse_lib.models import build_model

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("matrix", ROOT / "tools" / "matrix.py")
matrix = importlib.util.module_from_spec(spec)
spec.loader.exec_module(matrix)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A rendered set of its own speech, as the recipe's data/test is."""
    folder = tiny.make_data(tmp_path_factory.mktemp("data"))
    for path in (folder / "dev_speech").iterdir():
        path.rename(folder / "dev" / path.name)
    table = folder / "dev" / "wav.scp"
    table.write_text(table.read_text().replace("/dev_speech/", "/dev/"))
    return folder


class Listener(torch.nn.Module):
    """Knows the talkers' images, and puts out the one whose spectrum is most like what it is told."""

    def __init__(self, folder, deaf=False):
        super().__init__()
        self.images, self.deaf = {}, deaf
        for mixture in read_mixtures(folder / "mixtures.jsonl"):
            if mixture.target_present:
                names = "target", "interferer1"
                waves = [audio.read(audio_path(folder, name, mixture.mix_id))[0] for name in names]
                self.images[sum(waves).tobytes()] = torch.from_numpy(np.stack(waves))

    def encode(self, enroll, lengths):
        return enroll[:, 0]

    def forward(self, mixture, condition):
        images = self.images[mixture[0, 0].numpy().tobytes()]
        likeness = [torch.cosine_similarity(spectrum(image), spectrum(condition[0]), dim=0) for image in images]
        return images[0 if self.deaf else int(torch.stack(likeness).argmax())].view(1, 1, 1, -1)


def spectrum(wave):
    return torch.stft(wave, 64, window=torch.hann_window(64), return_complex=True).abs().square().mean(-1)


@pytest.mark.parametrize("deaf", [False, True])
def test_who_listens_follows_the_enrolment(data, deaf):
    lines = matrix.tested(Listener(data / "dev", deaf), str(data / "dev"), tiny.RATE)
    assert len(lines) == sum(mixture.target_present for mixture in read_mixtures(data / "dev" / "mixtures.jsonl")) > 1
    assert all(line["swapped"] is not deaf and not line["confused"] and line["si_sdri"] > 50 for line in lines)


def test_the_other_enrolment_is_another_utterance_of_the_interferer(data):
    speakers = {utt.utt_id: utt.spk_id for utt in read_data_dir(data / "dev")}
    for mixture in read_mixtures(data / "dev" / "mixtures.jsonl"):
        wave = matrix.other_utterance(str(data / "dev"), mixture).numpy()
        own = {utt_id: audio.read(data / "dev" / "wav" / f"{utt_id}.wav")[0] for utt_id in speakers}
        (utt_id,) = (name for name, read in own.items() if np.array_equal(read, wave))
        assert speakers[utt_id] == mixture.talkers[1].spk_id
        assert utt_id not in {source.utt_id for source in mixture.talkers}


@pytest.mark.parametrize(("backbone", "kind"), matrix.PAIRS)
def test_every_pair_is_a_conf_that_builds(monkeypatch, backbone, kind):
    monkeypatch.chdir(matrix.MINI / "tse1")
    conf = build(Config, matrix.conf_of(backbone, kind), kind)
    model = build_model(conf.model.name, conf.model.params, conf.sample_rate)
    assert model.kinds == kind.split("+")


def test_intervals_are_over_talkers_and_seeds():
    talkers = np.array([0, 0, 1, 1])
    assert matrix.interval(np.array([[1.0, 3, 1, 3]]), talkers) == (2, 2)  # talkers do not differ
    assert matrix.interval(np.array([[1.0, 1, 3, 3]]), talkers) == (1, 3)
    assert matrix.interval(np.array([[1.0] * 4, [3.0] * 4]), talkers) == (1, 3)
