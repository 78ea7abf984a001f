"""Losses of sources that have names and an order, some of which are silent now and then: stems, (B, S, C, T).

References:
    S. Wisdom et al., "What's all the fuss about free universal sound separation data?", ICASSP 2021.
    M. Kim, J. H. Lee, S. Jung, "Sound demixing challenge 2023 music demixing track technical report: TFC-TDF-UNet v3",
    2023: the loss is masked where it is largest.
    C. J. Steinmetz, J. D. Reiss, "auraloss: audio focused loss functions in PyTorch", DMRN+15, 2020.
"""

import functools

import torch
from torch import Tensor

from tse_lib.dsp.filters import a_weighting, mel_bank

FLOOR = 1e-8  # of every energy
SILENT = 1e-6  # of full scale: the least energy a sample of a mixture counts
MEL_RATE = 44100  # of the published loss
MEL_RESOLUTIONS = ((1024, 1024, 256), (2048, 2048, 512), (8192, 8192, 2048))  # n_fft, win_length, hop_length
MAGNITUDE_FLOOR = 1e-4  # -80 dB of a full scale constant over one sample, as auraloss's


def neg_snr_or_silence(
    estimate: Tensor, target: Tensor, max_db: float = 30.0, silent_max_db: float = 10.0, silent_db: float = -60.0
) -> Tensor:
    """Negative SNR in dB of sources that are heard, and of those that are silent how loud the estimate is.

    (B, S, C, T), (B, S, C, T) -> (B,), the mean over sources, each over all its channels. With x the sum of the targets
    and tau = 10^(-max_db / 10): -10 log10 ||t||^2 / (||t - e||^2 + tau ||t||^2) of a target t that is heard,
    10 log10 (||e||^2 + tau_0 ||x||^2) / ||x||^2 of one that is silent (Wisdom et al. 2021, eq. 4-5, there without what
    does not depend on e, and with tau_0 = tau). They are at their best -max_db and -silent_max_db.

    tau_0 is larger here: at 30 dB both, a tiny estimate of what is silent costs more than a good one of what is heard
    gains, and a small network puts out nothing at all (docs/losses.md). For the same reason a target may be called
    silent that is merely quiet: `silent_db` is the level, relative to the mixture, up to which it is.
    """
    mixture = target.sum(1).square().flatten(1).sum(1, keepdim=True).clamp_min(FLOOR)  # (B, 1)
    signal, distortion = (x.square().flatten(2).sum(2) for x in (target, target - estimate))  # (B, S)
    heard = signal > 10 ** (silent_db / 10) * mixture
    reference = torch.where(heard, signal, mixture).clamp_min(FLOOR)
    tau = torch.full_like(reference, 10 ** (-max_db / 10)).masked_fill(~heard, 10 ** (-silent_max_db / 10))
    return (10 * torch.log10(distortion / reference + tau)).mean(1)


def relative_error(estimate: Tensor, target: Tensor, floor_db: float = -10.0) -> Tensor:
    """Energy of the error over that of the target: (B, S, C, T), (B, S, C, T) -> (B,), the mean over sources.

    || t - e ||^2 / max(|| t ||^2, 10^(floor_db / 10) || x ||^2) with x the sum of the targets: a source that is quieter
    than the mixture by more than the floor, or silent, is measured against the mixture. An output of nothing costs at
    most 1, unlike in dB, where a network that begins has nothing to win by trying. x counts at least -60 dBFS.
    """
    mixture = target.sum(1).square().flatten(1)
    mixture = mixture.sum(1, keepdim=True).clamp_min(SILENT * mixture.shape[1])  # (B, 1)
    signal, error = (x.square().flatten(2).sum(2) for x in (target, target - estimate))  # (B, S)
    return (error / torch.maximum(signal, 10 ** (floor_db / 10) * mixture)).mean(1)


def masked_mse(estimate: Tensor, target: Tensor, q: float = 0.95, coarse: bool = True) -> Tensor:
    """Mean square error without the largest ones of the batch: (B, S, C, T), (B, S, C, T) -> (B,).

    Errors of a source that reach the quantile q of those of this source count 0 (Kim et al. 2023): with `coarse` errors
    are means over an item's channels and samples, else of single samples. So what is in a batch is a part of the loss,
    and with `coarse` the worst of a batch of 2 to 20 items is left out, of one item everything. The mean over items is
    the published value.
    """
    errors = (estimate - target).square()
    per_source = errors.flatten(2).mean(2, keepdim=True) if coarse else errors.flatten(2)  # (B, S, 1 or C*T)
    rows = per_source.detach().transpose(0, 1).flatten(1)  # (S, B*…)
    limit = _quantile(rows, q)[None, :, None]
    return (per_source * (per_source.detach() < limit)).mean((1, 2))


def _quantile(rows: Tensor, q: float) -> Tensor:
    """The linear quantile of each row; torch.quantile refuses more than 16 million values."""
    place = q * (rows.shape[1] - 1)
    low = int(place)
    at = rows.sort(1).values[:, low : low + 2]
    return at[:, 0] + (place - low) * (at[:, -1] - at[:, 0])


def multi_resolution_mel(
    estimate: Tensor,
    target: Tensor,
    sample_rate: int = MEL_RATE,
    num_mels: int = 128,
    resolutions: tuple = MEL_RESOLUTIONS,
    weighted: bool = True,
) -> Tensor:
    """Spectral convergence plus L1 of log magnitudes of mel spectrograms: (B, ..., T), (B, ..., T) -> (B,).

    With the mel magnitudes E and T of a channel of a source: || T - E ||_F / || T ||_F + mean |ln T - ln E|, the mean
    over channels, sources and resolutions (auraloss's MultiResolutionSTFTLoss with `scale: mel`; Steinmetz and Reiss
    2020). Magnitudes are at least 1e-4; a target that is nowhere above has no convergence, and its first term is 0.

    Args:
        weighted: by the A curve (`perceptual_weighting`, there a filter of 101 taps).
    """
    both = torch.stack([estimate, target]).flatten(2, -2)  # (2, B, S*C, T)
    terms = []
    for n_fft, win_length, hop_length in resolutions:
        window = torch.hann_window(win_length, dtype=both.dtype, device=both.device)
        waves = both.flatten(0, 2)
        spectra = torch.stft(waves, n_fft, hop_length, win_length, window, pad_mode="constant", return_complex=True)
        power = spectra.real.square() + spectra.imag.square()
        bank = _bank(sample_rate, n_fft, num_mels, weighted).to(both)
        with torch.autocast(both.device.type, enabled=False):
            mels = bank @ power.clamp_min(MAGNITUDE_FLOOR**2).sqrt()  # a root has no gradient at 0
        least = (bank.sum(1) * MAGNITUDE_FLOOR)[:, None]
        ours, theirs = mels.unflatten(0, both.shape[:3])  # (B, S*C, M, L) each
        heard = (theirs > 1.001 * least).flatten(2).any(2)
        error, size = (torch.linalg.vector_norm(x, dim=(2, 3)) for x in (theirs - ours, theirs))
        convergence = torch.where(heard, error / size.clamp_min(FLOOR), 0.0)
        distance = (theirs.clamp_min(FLOOR).log() - ours.clamp_min(FLOOR).log()).abs().mean((2, 3))
        terms.append((convergence + distance).mean(1))
    return torch.stack(terms).mean(0)


@functools.lru_cache(maxsize=16)
def _bank(sample_rate: int, n_fft: int, num_mels: int, weighted: bool) -> Tensor:
    bank = mel_bank(sample_rate, n_fft, num_mels)
    return bank * a_weighting(torch.fft.rfftfreq(n_fft, 1 / sample_rate, dtype=bank.dtype)) if weighted else bank
