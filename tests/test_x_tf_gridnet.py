"""X-TF-GridNet: the contract of an extractor; its talkers, its norms, and enrolments that are short."""

import functools

import pytest
import torch

from tests import extractor, separator
from tests.separator import noise
from tse_lib.models.x_tf_gridnet import Fusion, GuardedNorm, XTFGridNet

SMALL = {"n_fft": 32, "hop_length": 16, "num_blocks": 2, "emb_dim": 4, "emb_ks": 3, "emb_hs": 2, "lstm_hidden": 5}
SMALL |= {"num_heads": 2, "qk_dim": 2, "fusion_heads": 2, "unet_depths": [2, 1], "num_speakers": 3}
DEAD = ["classifier.weight", "classifier.bias"]  # they train with a loss of their own


def make(**options):
    """A small one, whose fusions take something of their answers."""
    model = XTFGridNet(**{**SMALL, **options})
    for fusion in model.fusions:
        torch.nn.init.normal_(fusion.alpha)
    return model


@pytest.mark.parametrize("compat", [False, True])
def test_an_extractor(compat):
    extractor.check_all(functools.partial(make, compat=compat), DEAD)


@pytest.mark.parametrize("options", [{}, {"num_blocks": 5}])
def test_parameters(options):
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in XTFGridNet(**options).parameters())
    assert count == {3: 7_787_374, 5: 12_676_424}[options.get("num_blocks", 3)]


@pytest.mark.parametrize("gain", [1e-3, 50.0])
def test_the_output_follows_the_mixtures_level_and_no_enrolments(gain):
    model, mixture, enroll = separator.build(make), noise(2, 1, 400), noise(2, 1, 300, seed=1)
    estimate = extractor.run(model, mixture, enroll)
    torch.testing.assert_close(extractor.run(model, gain * mixture, enroll), gain * estimate, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(extractor.run(model, mixture, gain * enroll), estimate, rtol=1e-3, atol=1e-6)


def test_talkers_train_the_classifier():
    model = separator.build(make).train()
    condition = model.encode(noise(2, 2, 900, seed=1), torch.tensor([[900, 500], [900, 0]]))
    logits = model.speaker_logits(condition)
    assert logits.shape == (2, 3)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert all(name.startswith(("fusions", "blocks", "deconv")) for name in still)


@torch.no_grad()
def test_recomputing_changes_nothing():
    gradients = []
    for recompute in (False, True):
        model = separator.build(make, gradient_checkpointing=recompute, dropout=0.3).train()
        with torch.enable_grad():
            torch.manual_seed(1)
            condition = model.encode(noise(1, 1, 600, seed=1))
            model(noise(1, 1, 400), condition).square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


# ---------------------------------------------------------------------------------------------------------- enrolments


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("size", [1, 16, 17, 64, 127])
def test_enrolments_of_less_than_a_pooled_frame(compat, size):
    """The original's mean of no frame is not a number. Here they have a voice, and tell talkers apart."""
    model, mixture = separator.build(make, compat=compat), noise(2, 1, 400)
    enroll = noise(2, 1, 900, seed=1)
    short = extractor.run(model, mixture, enroll[..., :size])
    assert short.isfinite().all()
    torch.testing.assert_close(extractor.run(model, mixture, enroll, [[size], [900]])[:1], short[:1], **extractor.CLOSE)
    if size > 1:  # one sample has no shape
        voices = model.encode(enroll[..., :size])["embedding"]
        assert (voices[0] - voices[1]).abs().max() > 1e-3


@torch.no_grad()
def test_a_short_enrolment_is_as_its_frames_repeated():
    model = separator.build(make)
    voice = model.encode(noise(1, 1, 4 * 16, seed=1))["embedding"]  # five frames for a pooled one of nine
    frames = model._features(model._levelled(noise(1, 64, seed=1))[0])[:, :, [0, 1, 2, 3, 4, 0, 1, 2, 3]]
    torch.testing.assert_close(voice, model.speaker_linear(model.unets(frames).mean((2, 3))))


@torch.no_grad()
def test_batch_norms_are_not_fed_with_padding():
    """Training: the same statistics whatever stands behind an enrolment's end, and however much of it."""
    enroll, found = noise(2, 1, 900, seed=1), []
    for size in (900, 2000):
        model = separator.build(make).train()
        padded = torch.nn.functional.pad(enroll, (0, size - 900), value=5.0)
        padded[0, 0, 600:] = 7
        found.append([model.encode(padded, torch.tensor([[600], [900]]))["embedding"], *model.buffers()])
    assert all(torch.allclose(one, other) for one, other in zip(*found, strict=True))


# --------------------------------------------------------------------------------------------------------------- parts


@torch.no_grad()
def test_compat_is_close_and_has_the_same_weights():
    ours, published = separator.build(make), separator.build(make, compat=True)
    assert ours.state_dict().keys() == published.state_dict().keys()
    mixture, enroll = noise(1, 1, 400), noise(1, 1, 300, seed=1)
    one, other = extractor.run(ours, mixture, enroll), extractor.run(published, mixture, enroll)
    assert 0 < (one - other).norm() < 1e-3 * one.norm()


def test_a_guarded_norm_adds_eps_twice():
    x = torch.tensor([[[1.0, 3.0], [3.0, 1.0]]], dtype=torch.float64)  # mean 2, variance 1
    guarded = (x - 2) / (2**0.5 + 1)  # the root of 1 + eps, and eps
    for norm in (GuardedNorm(2, 1.0).double(), GuardedNorm((2, 2), 1.0, elementwise_affine=False)):
        torch.testing.assert_close(norm(x), guarded)
    norm = GuardedNorm((2, 2), 1.0).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(4.0).view(2, 2))
        norm.bias.fill_(3)
    torch.testing.assert_close(norm(x), guarded * torch.arange(4.0).view(2, 2) + 3)


@torch.no_grad()
def test_fusion_asks_the_mixture_as_much_as_alpha_says():
    torch.manual_seed(0)
    fusion, x, voice = Fusion(4, 2, 0.0).eval(), noise(2, 3, 5, 4), noise(2, 4, seed=1)
    plain = fusion(x, voice)
    expected = fusion.linear(torch.cat((x, voice[:, None, None].expand_as(x)), -1))
    torch.testing.assert_close(plain, expected)  # alpha begins as zero
    fusion.alpha.fill_(1)
    other = x.clone()
    other[0, 2, 4] += 1
    changed = (fusion(x, voice) - fusion(other, voice)).abs().amax(-1)
    assert (changed[0] > 0).all() and not changed[1].any()  # one place is heard of at all places of its item


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"emb_dim": 5}, "emb_dim 5 must be a multiple of num_heads 2, fusion_heads 2"),
        ({"fusion_heads": 3}, "emb_dim 4 must be a multiple of num_heads 2, fusion_heads 3"),
        ({"emb_hs": 4}, "0 < emb_hs 4 <= emb_ks 3 must hold"),
        ({"hop_length": 17}, "n_fft 32 must be even and hop_length 17 at most half of it"),
        ({"n_fft": 36}, r"n_fft 36: its 19 bins cannot be halved as unet_depths \[2, 1\] want"),
        ({"unet_depths": [3]}, r"n_fft 32: its 17 bins cannot be halved as unet_depths \[3\] want"),
    ],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(ValueError, match=told):
        XTFGridNet(**{**SMALL, **options})


@pytest.mark.parametrize("n_fft", [128, 256, 512, 1024, 2048])
def test_powers_of_two_can_be_halved(n_fft):
    with torch.device("meta"):
        XTFGridNet(n_fft=n_fft)
