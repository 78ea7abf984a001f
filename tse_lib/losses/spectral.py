"""Losses on differences, of the samples and of spectrograms.

References:
    S. Arik, H. Jun, G. Diamos, "Fast spectrogram inversion using multi-head convolutional neural networks", 2018.
    R. Yamamoto, E. Song, J.-M. Kim, "Parallel WaveGAN", ICASSP 2020.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

RESOLUTIONS = ((512, 240, 50), (1024, 600, 120), (2048, 1200, 240))  # n_fft, win_length, hop_length
FLOOR = 1e-8  # of magnitudes below a logarithm and of norms below a fraction


def phase_sensitive(estimate: Tensor, target: Tensor, resolutions: tuple = RESOLUTIONS) -> Tensor:
    """L1 on the real and on the imaginary part of the STFT, the mean over resolutions: (B, ..., T) -> (B,)."""
    terms = [
        torch.view_as_real(ours - theirs).abs().mean((1, 2)) for ours, theirs in _spectra(estimate, target, resolutions)
    ]
    return torch.stack(terms).mean(0)


def multi_resolution_stft(
    estimate: Tensor, target: Tensor, resolutions: tuple = RESOLUTIONS, batch_wide: bool = False
) -> Tensor:
    """Spectral convergence and L1 of log magnitudes (Yamamoto et al. 2020, eq. 4-6): (B, ..., T) -> (B,).

    With the magnitudes E and T: the mean over resolutions and over both of || T - E ||_F / || T ||_F and of
    mean |ln T - ln E|. It sees no phase. A silent target divides by 1e-8: such items belong to losses for absent
    targets.

    `batch_wide` takes the norms over the whole batch, as HiFi-TSE and Parallel WaveGAN do; every item then gets the
    batch's convergence. Loud items weigh more there, and what is a batch (accumulation, the number of processes)
    changes the loss: a sum over items divided by their number is a mean only where each item has a value of its own.
    """
    terms = []
    for spectra in _spectra(estimate, target, resolutions):
        ours, theirs = (spectrum.abs() for spectrum in spectra)
        over = (0, 1) if batch_wide else (1,)
        error, size = (torch.linalg.vector_norm(x, dim=over) for x in (theirs - ours, theirs))
        distance = ((theirs + FLOOR).log() - (ours + FLOOR).log()).abs().mean(1)
        terms.append((error / size.clamp_min(FLOOR) + distance) / 2)
    return torch.stack(terms).mean(0)


def l1(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the samples: (B, ..., T) -> (B,)."""
    return (estimate - target).abs().flatten(1).mean(1)


def mixture_consistency(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the sum of the estimates from the mixture: (B, S, ...), (B, S or 1, ...) -> (B,).

    `target` is the sources, whose sum is meant, or the mixture itself as one source. Which estimate belongs to which
    source makes no difference, so it needs no permutation beside `pit`. It cannot tell sources apart: a second term
    for separation, never the only one. (What Wisdom et al. 2019 enforce by a projection, "Differentiable consistency
    constraints for improved deep speech enhancement", ICASSP.)
    """
    return l1(estimate.sum(1, keepdim=True), target.sum(1, keepdim=True))


def _spectra(estimate: Tensor, target: Tensor, resolutions: tuple) -> Iterator[tuple[Tensor, Tensor]]:
    """Both STFTs at each resolution, all bins of an item in a row: complex (B, S * C * F * L) each."""
    both = torch.cat([estimate, target])
    for n_fft, win_length, hop_length in resolutions:
        window = torch.hann_window(win_length, dtype=both.dtype, device=both.device)
        spectrum = torch.stft(both.flatten(0, -2), n_fft, hop_length, win_length, window, return_complex=True)
        ours, theirs = spectrum.reshape(len(both), -1).chunk(2)
        yield ours, theirs
