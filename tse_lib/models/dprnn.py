"""DPRNN-TasNet: recurrences along two short axes instead of a long one (Luo, Chen and Yoshioka 2020, arXiv 1910.06379).

Idea: filters of 2 samples make sequences too long for an LSTM. They are cut into chunks of about the square root of the
length, half over each other; one LSTM walks within each chunk, another from chunk to chunk, and both walks are short.

    mixture (B,C,T) -encoder-> frames (B*C,N,L) -norm, 1x1-> (B*C,D,L) -chunks-> (B*C,D,J,K) -[block] x R-> head
                                  sources (B,S,C,T) <-decoder- mask x frames (B*C,S,N,L) <-overlap-add, gate, 1x1-

    block: x + norm(linear(BiLSTM within chunks)), then x + norm(linear(BiLSTM across chunks)); norms over a whole item

Letters: L frames, N filters, D bottleneck, J chunks of K frames, R blocks.

The defaults are the paper's best network: 2,608,065 parameters. What differs:
- a mixture is padded to whole frames (with the paper's stride of 1 it always has them);
- Asteroid's default has `bottleneck_dim: 128`; SpeechBrain's recipe longer filters, wider layers, ReLU on frames and
  masks, no bias in the bottleneck and fewer zeros around the frames (`chunk_padding`, see tse_lib/nn/dual_path.py).
"""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tse_lib.nn.conditioning import Inject, as_it_is
from tse_lib.nn.dual_path import MaskHead, across_chunks, check_chunks, to_chunks, within_chunks
from tse_lib.nn.filterbank import to_frames, to_waves

EPS = 1e-8  # of all norms


class Recurrence(nn.Module):
    """BiLSTM and linear map: (rows, steps, D) -> the same."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.lstm = nn.LSTM(dim, hidden_dim, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.lstm(x)[0])


class Block(nn.Module):
    """A walk within chunks, then one across them: (B, D, J, K) -> the same."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.intra = Recurrence(dim, hidden_dim)
        self.intra_norm = nn.GroupNorm(1, dim, EPS)
        self.inter = Recurrence(dim, hidden_dim)
        self.inter_norm = nn.GroupNorm(1, dim, EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.intra_norm(within_chunks(self.intra, x))
        return x + self.inter_norm(across_chunks(self.inter, x))


class DPRNN(nn.Module):
    """The separator (see the head of this file).

    Args:
        num_sources: how many come out.
        num_filters, kernel_size, stride: of encoder and decoder, in samples.
        bottleneck_dim, hidden_dim: features between blocks, and of each direction of an LSTM.
        chunk_size: frames of a chunk, even.
        num_blocks: pairs of walks.
        chunk_padding: whole or half.
        encoder_relu: ReLU on the frames.
        mask: sigmoid or relu.
        bottleneck_bias: of the 1x1 convolution before the chunks.
        gradient_checkpointing: recompute the blocks in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        num_sources: int = 2,
        num_filters: int = 64,
        kernel_size: int = 2,
        stride: int = 1,
        bottleneck_dim: int = 64,
        hidden_dim: int = 128,
        chunk_size: int = 250,
        num_blocks: int = 6,
        chunk_padding: str = "whole",
        encoder_relu: bool = False,
        mask: str = "sigmoid",
        bottleneck_bias: bool = True,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        check_chunks(chunk_size, chunk_padding)
        self.chunk_size, self.chunk_padding, self.encoder_relu = chunk_size, chunk_padding, encoder_relu
        self.gradient_checkpointing = gradient_checkpointing
        self.feature_dims = [bottleneck_dim] * num_blocks
        self.encoder = nn.Conv1d(1, num_filters, kernel_size, stride, bias=False)
        self.norm = nn.GroupNorm(1, num_filters, EPS)
        self.bottleneck = nn.Conv1d(num_filters, bottleneck_dim, 1, bias=bottleneck_bias)
        self.blocks = nn.ModuleList(Block(bottleneck_dim, hidden_dim) for _ in range(num_blocks))
        self.head = MaskHead(num_sources, bottleneck_dim, num_filters, chunk_padding, mask)
        self.decoder = nn.ConvTranspose1d(num_filters, 1, kernel_size, stride, bias=False)

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture (B, C, T) -> sources (B, S, C, T). Channels are separated one by one."""
        x, frames = self.front(mixture)
        return self.back(self.body(x), frames, mixture)

    def front(self, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T) -> features (B*C, D, L) and frames (B*C, N, L)."""
        frames = to_frames(self.encoder, mixture)
        frames = frames.relu() if self.encoder_relu else frames
        return self.bottleneck(self.norm(frames)), frames

    def body(self, x: Tensor, inject: Inject = as_it_is) -> Tensor:
        """(B, D, L) -> chunks (B, D, J, K), which is also what is injected into from the second block on."""
        x = to_chunks(inject(x, 0), self.chunk_size, self.chunk_padding)
        recompute = self.training and self.gradient_checkpointing
        for number, block in enumerate(self.blocks):
            x = inject(x, number) if number else x
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return x

    def back(self, x: Tensor, frames: Tensor, mixture: Tensor) -> Tensor:
        masks = self.head(x, frames.shape[-1])  # (B*C, S, N, L)
        return to_waves(self.decoder, masks * frames[:, None], mixture)
