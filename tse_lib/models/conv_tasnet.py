"""Conv-TasNet: separation by masks on learned filters (Luo and Mesgarani, 2019, arXiv 1809.07454).

Idea: no spectrogram and no recurrence. Short learned filters take its place, and a stack of dilated convolutions, whose
reach doubles from block to block, sees a second of context at the cost of a few multiplications a frame.

    mixture (B,C,T) -encoder-> frames (B*C,N,L) -norm, 1x1-> (B*C,D,L) -[block] x (X*R)-> sum of skips (B*C,D',L)
                                  sources (B,S,C,T) <-decoder- mask x frames (B*C,S,N,L) <-1x1, sigmoid-

    block: D -1x1-> H, PReLU, norm, depthwise with dilation 1, 2, …, 2^(X-1), PReLU, norm -1x1-> D (residual), D' (skip)

Letters: L frames, N filters, D bottleneck, H hidden, D' skip, X blocks a repeat, R repeats.

The defaults are the paper's best network, which is Asteroid's too: 5,050,545 parameters. What differs:
- a mixture is padded to whole frames; the toolkits leave up to `stride - 1` samples at its end silent;
- the residual convolution of the last block leads nowhere. It is kept, as published counts and weights have it;
- SpeechBrain's variant has no skips (`skip_dim: 0`, then there is no PReLU before the masks either), no biases, each
  frame normalised by itself at the input, ReLU on frames and masks. Its causal convolutions are padded twice and so
  end one dilation too early (`late: true`), and its recipe's norm is that of the whole utterance: only `norm: cLN` (or
  LN) and `causal: true` together make a network that hears no future beyond a frame (`kernel_size - 1` samples).
  Those that are not causal are padded with a reflection of the frames, where others have zeros (`reflect: true`).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from tse_lib.nn.conditioning import Inject, as_it_is
from tse_lib.nn.filterbank import MASKS, check_mask, to_frames, to_waves
from tse_lib.nn.tcn import TCNBlock, check_norm, new_norm


class ConvTasNet(nn.Module):
    """The separator (see the head of this file).

    Args:
        num_sources: how many come out.
        num_filters, kernel_size, stride: of encoder and decoder, in samples (N, L and L/2 of the paper).
        bottleneck_dim, hidden_dim, skip_dim: channels between blocks, inside one, to the masks (B, H, Sc; 0: no skips).
        conv_kernel_size, num_blocks, num_repeats: of the depthwise convolutions (P), blocks a repeat (X), repeats (R).
        norm: gLN (the whole utterance), cLN (what was heard so far), LN (each frame by itself) or BN (the batch).
        input_norm: the norm before the bottleneck, where it is another one.
        causal: the depthwise convolutions see the past only.
        late: they end half their reach earlier.
        reflect: frames are reflected at both ends, where zeros would be padded; a mixture that is too short for that
            gets zeros at its end.
        encoder_relu: ReLU on the frames.
        mask: sigmoid or relu.
        bias: of the convolutions of bottleneck, blocks and masks.
        norm_eps: of all norms.
    """

    has_idle_parameters = True  # the residual of the last block

    def __init__(
        self,
        num_sources: int = 2,
        num_filters: int = 512,
        kernel_size: int = 16,
        stride: int = 8,
        bottleneck_dim: int = 128,
        hidden_dim: int = 512,
        skip_dim: int = 128,
        conv_kernel_size: int = 3,
        num_blocks: int = 8,
        num_repeats: int = 3,
        norm: str = "gLN",
        input_norm: str = "",
        causal: bool = False,
        late: bool = False,
        reflect: bool = False,
        encoder_relu: bool = False,
        mask: str = "sigmoid",
        bias: bool = True,
        norm_eps: float = 1e-8,
    ):
        super().__init__()
        check_mask(mask)
        check_norm("norm", norm)
        check_norm("input_norm", input_norm or norm)
        self.num_sources, self.encoder_relu, self.mask = num_sources, encoder_relu, mask
        self.feature_dims = [bottleneck_dim] * num_blocks * num_repeats
        reach = (conv_kernel_size - 1) * 2 ** (num_blocks - 1)  # reflecting that many frames needs one more
        self.least = kernel_size + stride * (reach if causal else reach - reach // 2) if reflect else 0
        self.encoder = nn.Conv1d(1, num_filters, kernel_size, stride, bias=False)
        self.norm = new_norm(input_norm or norm, num_filters, norm_eps)
        self.bottleneck = nn.Conv1d(num_filters, bottleneck_dim, 1, bias=bias)
        sizes = (bottleneck_dim, hidden_dim, skip_dim, conv_kernel_size)
        self.blocks = nn.ModuleList(
            TCNBlock(*sizes, 2**number, norm, causal, late, reflect, bias, eps=norm_eps)
            for _ in range(num_repeats)
            for number in range(num_blocks)
        )
        self.mask_act = nn.PReLU() if skip_dim else nn.Identity()
        self.mask_conv = nn.Conv1d(skip_dim or bottleneck_dim, num_sources * num_filters, 1, bias=bias)
        self.decoder = nn.ConvTranspose1d(num_filters, 1, kernel_size, stride, bias=False)

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture (B, C, T) -> sources (B, S, C, T). Channels are separated one by one."""
        x, frames = self.front(mixture)
        return self.back(self.body(x), frames, mixture)

    def front(self, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T) -> features (B*C, D, L) and frames (B*C, N, L)."""
        padded = F.pad(mixture, (0, max(0, self.least - mixture.shape[-1])))
        frames = to_frames(self.encoder, padded)
        frames = frames.relu() if self.encoder_relu else frames
        return self.bottleneck(self.norm(frames)), frames

    def body(self, x: Tensor, inject: Inject = as_it_is) -> Tensor:
        """(B, D, L) -> what masks are made of, (B, D', L)."""
        skips = None
        for number, block in enumerate(self.blocks):
            x = inject(x, number)
            residual, skip = block(x)
            x = x + residual
            skips = skip if skips is None else skips + skip
        return x if skips is None else skips

    def back(self, x: Tensor, frames: Tensor, mixture: Tensor) -> Tensor:
        y = self.mask_conv(self.mask_act(x))
        masks = MASKS[self.mask](y).unflatten(1, (self.num_sources, -1))  # (B*C, S, N, L)
        return to_waves(self.decoder, masks * frames[:, None], mixture)
