"""Learning rates and weights as functions of the optimizer step."""

import math
from bisect import bisect_right
from collections.abc import Sequence


def lr_scale(step: int, warmup_steps: int, max_steps: int, floor: float, restart_at: Sequence[int] = ()) -> float:
    """Linear warm-up from near 0 to 1, then half a cosine down to `floor` at `max_steps`; 0 before step 0.

    With warm restarts (Loshchilov and Hutter 2017, arXiv 1608.03983) each of the steps `restart_at` begins with 1
    again, and there are as many halves of cosines more.
    """
    if step < 0:
        return 0.0
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    ends = [warmup_steps, *restart_at, max_steps]
    cycle = min(bisect_right(ends, step), len(ends) - 1)
    progress = min(1.0, (step - ends[cycle - 1]) / max(1, ends[cycle] - ends[cycle - 1]))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def gan_strength(step: int, discriminator_only_steps: int, ramp_steps: int) -> float:
    """How much of the discriminator the extractor hears: 0 while it learns alone, then linearly to 1."""
    return (
        min(1.0, max(0, step - discriminator_only_steps) / max(1, ramp_steps))
        if ramp_steps
        else float(step >= discriminator_only_steps)
    )
