"""The discriminators and their losses: sizes, shapes, and that a batch's place in a step does not matter."""

import json
from pathlib import Path

import pytest
import torch

from tests.parity import rule
from tse_lib.losses.adversarial import adversarial, discriminator_loss, feature_matching
from tse_lib.models.discriminators import DISCRIMINATORS, build_discriminator, renew_spectral_norms

NARROW = {
    "periods": [2, 3],
    "period_channels": [4, 8],
    "num_scales": 2,
    "scale_channels": [4, 4, 6, 8, 8, 8, 8],
}
FIXTURE = Path(__file__).parent / "parity" / "fixtures" / "hifi_tse_losses.json"


@pytest.fixture
def narrow():
    torch.manual_seed(0)
    return build_discriminator("mpd_msd", NARROW)


@pytest.mark.parametrize(("name", "millions"), [("mpd", 41_105_770), ("msd", 29_618_821), ("mpd_msd", 70_724_591)])
def test_sizes_of_the_paper(name, millions):
    with torch.device("meta"):
        model = DISCRIMINATORS[name]()
    assert sum(parameter.numel() for parameter in model.parameters()) == millions


@pytest.mark.parametrize("size", [400, 401, 1999])
def test_maps_of_a_narrow_one(narrow, size):
    """Lengths that no period divides; an item's maps do not depend on who else is in the batch."""
    wave = torch.randn(3, 1, size, generator=torch.manual_seed(1))
    maps = narrow(wave)
    assert [len(one) for one in maps] == [3, 3, 8, 8]
    assert all(one.shape[0] == 3 and one.isfinite().all() for network in maps for one in network)
    for whole, alone in zip(maps, narrow(wave[1:2]), strict=True):
        torch.testing.assert_close(whole[-1][1:2], alone[-1])


def test_unknown_names_options_and_sizes():
    with pytest.raises(ValueError, match=r"unknown 'mdp'; known: mpd, msd, mpd_msd"):
        build_discriminator("mdp", {})
    with pytest.raises(ValueError, match="unknown option 'period'; did you mean 'periods'"):
        build_discriminator("mpd", {"period": [2]})
    with pytest.raises(ValueError, match=r"scale_channels: 7 numbers expected, got \[4, 4\]"):
        build_discriminator("msd", {"scale_channels": [4, 4]})


def test_every_parameter_has_a_gradient(narrow):
    waves = torch.randn(2, 2, 1, 900, generator=torch.manual_seed(1))
    discriminator_loss(narrow(waves[0]), narrow(waves[1])).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in narrow.parameters())


def test_spectral_norms_move_once_a_step_and_not_in_forward_passes(narrow):
    first = narrow.msd.discriminators[0].convs[1]
    with torch.no_grad():
        first.parametrizations.weight.original.normal_()
    before = first.parametrizations.weight[0]._u.clone()
    narrow(torch.randn(1, 1, 500, generator=torch.manual_seed(1)))
    assert torch.equal(first.parametrizations.weight[0]._u, before) and not narrow.training
    for _ in range(200):
        renew_spectral_norms(narrow)
    assert torch.linalg.matrix_norm(first.weight.flatten(1), 2).item() == pytest.approx(1, rel=1e-2)
    assert not narrow.training


# ------------------------------------------------------------------------------------------------ losses


def test_losses_of_the_published_generator_and_discriminator():
    spec = json.loads(FIXTURE.read_text())
    waves = {
        kind: [rule.wave(start + i, 7 + 3 * i)[None] for i in range(3)] for kind, start in (("r", 1000), ("f", 2000))
    }
    real, fake = ([[maps[0], maps[1]], [maps[2]]] for maps in (waves["r"], waves["f"]))
    ours = {"feature_matching": feature_matching(real, fake)}
    verdicts = [[[wave] for wave in waves[kind]] for kind in ("r", "f")]
    ours |= {"generator": adversarial(verdicts[1]), "discriminator": discriminator_loss(*verdicts)}
    for name, value in spec["losses"]["lsgan"].items():
        assert ours[name].item() == pytest.approx(value, rel=spec["tol"])


def test_a_discriminator_that_knows_has_no_loss():
    sure = [[torch.zeros(2, 3), torch.ones(2, 4)]], [[torch.zeros(2, 3), torch.zeros(2, 4)]]
    assert discriminator_loss(*sure).tolist() == [0, 0]
    assert adversarial(sure[1]).tolist() == [1, 1] and adversarial(sure[0]).tolist() == [0, 0]
    assert feature_matching(*sure).tolist() == [0.5, 0.5]


def test_feature_matching_moves_only_the_estimate():
    real, fake = torch.zeros(1, 5, requires_grad=True), torch.ones(1, 5, requires_grad=True)
    feature_matching([[real]], [[fake]]).sum().backward()
    assert real.grad is None and fake.grad.any()
