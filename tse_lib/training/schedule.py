"""The learning rate as a function of the optimizer step."""

import math


def lr_scale(step: int, warmup_steps: int, max_steps: int, floor: float) -> float:
    """Linear warm-up from near 0 to 1, then half a cosine down to `floor` at `max_steps`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
