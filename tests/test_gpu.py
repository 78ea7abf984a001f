"""What a GPU computes is what a CPU computes."""

import pytest
import torch

from tests import tiny
from tse_lib.bin.check import check, noise_item
from tse_lib.config import Config, build
from tse_lib.data.dataset import DrawnMixtures, collate, collate_raw, render_raw
from tse_lib.models import build_model
from tse_lib.models.presets import HIFI_TSE_V2
from tse_lib.simulation.sample import read_corpus
from tse_lib.training.steps import autocast_for

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_hifi_tse_v2_on_cpu_and_gpu():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    model = build_model("hifi_tse", HIFI_TSE_V2, 48000).eval()
    for project in model.decoder.projections:
        torch.nn.init.normal_(project.weight, std=0.05)  # so that the network matters
    mixture, enroll = 0.1 * torch.randn(2, 1, 24000), 0.1 * torch.randn(2, 2, 30000)
    lengths = torch.tensor([[30000, 20000], [30000, 0]])
    with torch.no_grad():
        on_cpu = model(mixture, model.encode(enroll, lengths))
        model.cuda()
        on_gpu = model(mixture.cuda(), model.encode(enroll.cuda(), lengths)).cpu()
    assert (on_cpu - on_gpu).abs().max() < 1e-4 * on_cpu.abs().max()


def test_mixtures_are_rendered_alike_on_cpu_and_gpu(corpus_dir):
    """Without resampling within -80 dB, with it within -45 dB of the signal."""
    for speed, limit_db in (([1.0, 1.0], -80), ([0.9, 1.1], -45)):
        wanted = tiny.values()
        wanted["simulation"] |= {"render_on": "device", "rir_probability": 0.5, "speed": speed, "clip_probability": 0.2}
        corpus = read_corpus(corpus_dir / "train", corpus_dir / "noise", corpus_dir / "rir")
        there = DrawnMixtures(corpus, build(Config, wanted, "conf"))
        wanted["simulation"]["render_on"] = "worker"
        here = DrawnMixtures(corpus, build(Config, wanted, "conf"))
        batch = render_raw(collate_raw([there[index] for index in range(16)]), torch.device("cuda"))
        reference = collate([here[index] for index in range(16)])
        for key in ("mixture", "target", "enroll"):
            error, power = (batch[key].cpu() - reference[key]).square().sum(), reference[key].square().sum()
            assert 10 * torch.log10(error / power) < limit_db, key


def test_a_bf16_step_on_the_gpu_is_finite():
    conf = tiny.conf_of(bf16=True)
    device = torch.device("cuda")
    assert autocast_for(device, True)._enabled
    report = check(conf, device, 2, None)  # raises where a gradient is not finite
    assert report["precision"] == "bfloat16 autocast"
    assert collate([noise_item(conf, 0, 0)])["mixture"].shape == (1, 1, 3200)
