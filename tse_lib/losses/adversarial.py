"""The losses of a generator and its discriminator, after LSGAN (Mao et al., 2017) and HiFi-GAN (Kong et al., 2020).

`maps` are what a discriminator of `tse_lib.models.discriminators` returns: for each of its networks the feature maps
(B, ...) of its layers, the verdict last. A real wave's verdict should be 1, an estimate's 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Maps = Sequence[Sequence[Tensor]]


def discriminator_loss(real: Maps, fake: Maps) -> Tensor:
    """Mean over networks of mean (D(real) - 1)^2 + mean D(fake)^2: (B,)."""
    terms = [
        _mean((_full(true[-1]) - 1).square()) + _mean(_full(false[-1]).square())
        for true, false in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean(0)


def adversarial(fake: Maps) -> Tensor:
    """Mean over networks of mean (D(fake) - 1)^2, the generator's: (B,)."""
    return torch.stack([_mean((_full(maps[-1]) - 1).square()) for maps in fake]).mean(0)


def feature_matching(real: Maps, fake: Maps) -> Tensor:
    """Mean over all maps (the verdicts, too) of the mean absolute difference: (B,). No gradient goes to `real`."""
    terms = [
        _mean((_full(a.detach()) - _full(b)).abs())
        for true, false in zip(real, fake, strict=True)
        for a, b in zip(true, false, strict=True)
    ]
    return torch.stack(terms).mean(0)


def _mean(values: Tensor) -> Tensor:
    """(B, ...) -> (B,)."""
    return values.flatten(1).mean(1)


def _full(values: Tensor) -> Tensor:
    """Out of autocast's half precision, in which means of small numbers are poor."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
