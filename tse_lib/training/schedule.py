"""Learning rates and weights as functions of the optimizer step."""

import math


def lr_scale(step: int, warmup_steps: int, max_steps: int, floor: float) -> float:
    """Linear warm-up from near 0 to 1, then half a cosine down to `floor` at `max_steps`; 0 before step 0."""
    if step < 0:
        return 0.0
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def gan_strength(step: int, discriminator_only_steps: int, ramp_steps: int) -> float:
    """How much of the discriminator the extractor hears: 0 while it learns alone, then linearly to 1."""
    return (
        min(1.0, max(0, step - discriminator_only_steps) / max(1, ramp_steps))
        if ramp_steps
        else float(step >= discriminator_only_steps)
    )
