"""Weights of losses (scheduled, learned) and the losses on speaker embeddings, against closed forms."""

import math

import pytest
import torch

from tse_lib.config import LossTerm, build
from tse_lib.losses.speaker import speaker_contrast, speaker_cross_entropy
from tse_lib.losses.weights import UncertaintyWeights, weights_at


def term(weight, **others):
    return build(LossTerm, {"name": "l1", "weight": weight, **others}, "loss")


# ---------------------------------------------------------------------------------------- scheduled


def test_weights_at_a_step():
    terms = [term(2), term({0: 1.0, 1000: 1.0, 5000: 0.1}), term({100: 0, 200: 4})]
    assert weights_at(terms, 0) == [2, 1, 0]
    assert weights_at(terms, 150) == [2, 1, 2]
    assert weights_at(terms, 3000) == pytest.approx([2, 0.55, 4])
    assert weights_at(terms, 99999) == pytest.approx([2, 0.1, 4])


def test_a_stored_schedule_builds_the_same_again():
    first = term({100: 0.5, 200: 4})
    assert first.weight == 0.5
    assert build(LossTerm, first.model_dump(), "loss") == first
    assert build(LossTerm, first.model_dump(mode="json"), "loss") == first
    assert LossTerm.model_validate_json(first.model_dump_json()) == first


@pytest.mark.parametrize(
    ("weight", "others", "told"),
    [
        (0, {}, "above 0, at some step at least; to do without 'l1', remove it"),
        ({0: 0, 10: 0.0}, {}, "above 0, at some step at least"),
        (-1, {}, "loss: weight: Input should be greater than or equal to 0"),
        ({0: 1, 10: -1}, {}, "schedule.10: Input should be greater than or equal to 0"),
        (math.nan, {}, "weight: Input should be a finite number"),
        ({}, {}, "weight: Input should be a valid number"),
        ("much", {}, "weight: Input should be a valid number"),
        ({"first": 1}, {}, "a number or a schedule {step: weight} expected, got {'first': 1}"),
        ({-5: 1}, {}, "a number or a schedule {step: weight} expected"),
        ({0: "a", 10: 1}, {}, "schedule.0: Input should be a valid number"),
        (2, {"schedule": {0: 1, 10: 3}}, "weight: 2, but 1.0 at step 0 of `schedule`; give one of the two"),
        (2, {"schedule": {"x": 1}}, "a number or a schedule"),
    ],
)
def test_weight_errors(weight, others, told):
    with pytest.raises(ValueError) as error:
        term(weight, **others)
    assert told in str(error.value)


# ---------------------------------------------------------------------------------------- learned


def test_learned_weights_come_to_the_closed_form_minimum():
    """Over s, exp(-s) L / 2 + s / 2 is least at s = ln L: (1 + ln L) / 2, where the weight is 1 / (2 L)."""
    losses = torch.tensor([0.02, 1.0, 50.0], dtype=torch.float64)
    module = UncertaintyWeights(["l1", "phase_sensitive", "multi_resolution_stft"]).double()
    assert module.weights().tolist() == [0.5, 0.5, 0.5]
    optimizer = torch.optim.LBFGS(
        module.parameters(), max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12
    )

    def closure():
        optimizer.zero_grad()
        total = module(losses)
        total.backward()
        return total

    optimizer.step(closure)
    torch.testing.assert_close(module.log_variances.detach(), losses.log(), atol=1e-6, rtol=0)
    torch.testing.assert_close(module.weights().detach(), 1 / (2 * losses), rtol=1e-5, atol=0)
    torch.testing.assert_close(module(losses).detach(), ((1 + losses.log()) / 2).sum())


def test_learned_weights_reach_the_losses():
    losses = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    module = UncertaintyWeights(["l1", "amplitude"]).double()
    assert torch.autograd.gradcheck(
        lambda s, x: torch.func.functional_call(module, {"log_variances": s}, (x,)),
        (
            torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True),
            losses,
        ),
    )
    parts = [losses[:1], losses[1:]]  # batches of one optimizer step: the regulariser counts once
    total = (
        sum((module.weights()[k : k + 1] * part).sum() for k, part in enumerate(parts)) + module.regularisers().sum()
    )
    torch.testing.assert_close(total, module(losses))


def test_learned_weights_are_stored():
    module = UncertaintyWeights(["l1", "amplitude"])
    assert {name: value.shape for name, value in module.state_dict().items()} == {"log_variances": (2,)}


@pytest.mark.parametrize("name", ["neg_si_sdr", "pit", "attenuation"])
def test_losses_that_have_no_least_weight_are_refused(name):
    with pytest.raises(ValueError, match=f"the weight of '{name}' cannot be learned"):
        UncertaintyWeights(["l1", name])


# ---------------------------------------------------------------------------------------- speakers


def test_contrast_of_embeddings_that_tell_nothing_is_the_logarithm_of_their_number():
    same = torch.ones(7, 16, dtype=torch.float64)
    torch.testing.assert_close(speaker_contrast(same, 3 * same), torch.full((7,), math.log(7), dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_contrast_of_orthogonal_talkers(temperature):
    enrolment = torch.eye(5, 16, dtype=torch.float64)
    value = speaker_contrast(4 * enrolment, enrolment, temperature=temperature)
    torch.testing.assert_close(value, torch.full_like(value, math.log1p(4 * math.exp(-1 / temperature))))
    wrong = speaker_contrast(enrolment.roll(1, 0), enrolment, temperature=temperature)
    torch.testing.assert_close(wrong, value + 1 / temperature)


def test_contrast_does_not_part_items_of_one_talker():
    enrolment = torch.eye(4, 8, dtype=torch.float64)
    enrolment[1] = enrolment[0]
    value = speaker_contrast(enrolment, enrolment, torch.tensor([7, 7, 2, 3]))
    few, many = math.log1p(2 * math.exp(-10)), math.log1p(3 * math.exp(-10))
    torch.testing.assert_close(value, torch.tensor([few, few, many, many], dtype=torch.float64))
    assert (speaker_contrast(enrolment, enrolment)[:2] > math.log(2)).all()


def test_contrast_gradient():
    generator = torch.manual_seed(0)
    output, enrolment = (
        torch.randn(4, 6, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2)
    )
    speakers = torch.tensor([0, 1, 0, 2])
    assert torch.autograd.gradcheck(lambda a, b: speaker_contrast(a, b, speakers), (output, enrolment))


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e15])
def test_contrast_of_extreme_embeddings_is_finite(scale):
    output = torch.full((3, 8), scale, requires_grad=True)
    value = speaker_contrast(output, torch.randn(3, 8, generator=torch.manual_seed(0)))
    value.sum().backward()
    assert value.isfinite().all() and output.grad.isfinite().all()
    alone = speaker_contrast(output, output.detach().flip(-1), torch.zeros(3, dtype=torch.long))
    assert alone.tolist() == [0, 0, 0]  # a batch of one talker has no negatives


def test_contrast_in_autocast_is_not_rounded():
    generator = torch.manual_seed(0)
    pair = [torch.randn(6, 32, generator=generator) for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        inside = speaker_contrast(*pair)
    torch.testing.assert_close(inside, speaker_contrast(*pair), rtol=1e-6, atol=1e-6)


def test_cross_entropy():
    logits = torch.tensor(
        [[0.0, 0.0, 0.0, 0.0], [0.0, math.log(9), 0.0, 0.0], [5.0, 1.0, 1.0, 1.0]], dtype=torch.float64
    )
    value = speaker_cross_entropy(logits, torch.tensor([3, 1, -1]))
    torch.testing.assert_close(value, torch.tensor([math.log(4), math.log(12 / 9), 0.0], dtype=torch.float64))
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: speaker_cross_entropy(x, torch.tensor([3, 1, -1])), (logits,))
