"""DPTNet: dual-path transformers whose feed-forward layer is recurrent (Chen, Mao and Liu, 2020, arXiv 2007.13975).

Idea: attention within and across chunks lets any two frames speak to each other directly, and an LSTM in place of the
feed-forward layer's first map tells the order, so no position coding is needed.

    mixture (B,C,T) -encoder, ReLU-> frames (B*C,N,L) -norm-> -chunks-> (B*C,N,J,K) -[layer, layer] x R-> head
                                  sources (B,S,C,T) <-decoder- mask x frames (B*C,S,N,L) <-overlap-add, gate, ReLU-

    layer: norm(x + attention), then norm(x + linear(ReLU(BiLSTM))); one within chunks, the next across

Letters: L frames, N filters, J chunks of K frames, R repeats.

The defaults are of the paper's size, which is ESPnet's too: 2,801,025 parameters. What differs:
- norms are over the features and steps of a row, as in both toolkits;
- a mixture is padded to whole frames (with the paper's stride of 1 it always has them);
- Asteroid's default has longer filters, shorter chunks and twice the LSTM.
"""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tse_lib.nn.conditioning import Inject, as_it_is
from tse_lib.nn.dual_path import MaskHead, across_chunks, check_chunks, to_chunks, within_chunks
from tse_lib.nn.filterbank import to_frames, to_waves
from tse_lib.nn.transformer import attend


class Layer(nn.Module):
    """The recurrent transformer layer: (rows, steps, D) -> the same."""

    def __init__(self, dim: int, hidden_dim: int, num_heads: int, dropout: float, norm_eps: float):
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.attn_norm = nn.GroupNorm(1, dim, norm_eps)
        self.lstm = nn.LSTM(dim, hidden_dim, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * hidden_dim, dim)
        self.norm = nn.GroupNorm(1, dim, norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(attend(self.attn, x))
        x = self.attn_norm(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.dropout(self.linear(self.dropout(self.lstm(x)[0].relu())))
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class DPTNet(nn.Module):
    """The separator (see the head of this file).

    Args:
        num_sources: how many come out.
        num_filters, kernel_size, stride: of encoder and decoder, in samples; there is no bottleneck.
        hidden_dim: features of each direction of an LSTM.
        num_heads: of the attentions.
        chunk_size: frames of a chunk, even.
        num_blocks: pairs of layers.
        dropout: in the attentions and around the LSTMs, while training.
        norm_eps: of all norms. ESPnet's is the machine epsilon of its numbers, 1.2e-7.
        gradient_checkpointing: recompute the layers in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        num_sources: int = 2,
        num_filters: int = 64,
        kernel_size: int = 2,
        stride: int = 1,
        hidden_dim: int = 128,
        num_heads: int = 4,
        chunk_size: int = 250,
        num_blocks: int = 6,
        dropout: float = 0.0,
        norm_eps: float = 1e-8,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        check_chunks(chunk_size, "whole")
        if num_filters % num_heads:
            raise ValueError(f"num_filters {num_filters} must be a multiple of num_heads {num_heads}")
        self.chunk_size, self.gradient_checkpointing = chunk_size, gradient_checkpointing
        self.feature_dims = [num_filters] * num_blocks
        self.encoder = nn.Conv1d(1, num_filters, kernel_size, stride, bias=False)
        self.norm = nn.GroupNorm(1, num_filters, norm_eps)
        sizes = (num_filters, hidden_dim, num_heads, dropout, norm_eps)
        self.intra = nn.ModuleList(Layer(*sizes) for _ in range(num_blocks))
        self.inter = nn.ModuleList(Layer(*sizes) for _ in range(num_blocks))
        self.head = MaskHead(num_sources, num_filters, 0, "whole", average=True)
        self.decoder = nn.ConvTranspose1d(num_filters, 1, kernel_size, stride, bias=False)

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture (B, C, T) -> sources (B, S, C, T). Channels are separated one by one."""
        x, frames = self.front(mixture)
        return self.back(self.body(x), frames, mixture)

    def front(self, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T) -> features (B*C, N, L) and frames (B*C, N, L)."""
        frames = to_frames(self.encoder, mixture).relu()
        return self.norm(frames), frames

    def body(self, x: Tensor, inject: Inject = as_it_is) -> Tensor:
        """(B, N, L) -> chunks (B, N, J, K), which is also what is injected into from the second block on."""
        x = to_chunks(inject(x, 0), self.chunk_size, "whole")
        recompute = self.training and self.gradient_checkpointing
        for number, pair in enumerate(zip(self.intra, self.inter, strict=True)):
            x = inject(x, number) if number else x
            for walk, layer in zip((within_chunks, across_chunks), pair, strict=True):
                x = checkpoint(walk, layer, x, use_reentrant=False) if recompute else walk(layer, x)
        return x

    def back(self, x: Tensor, frames: Tensor, mixture: Tensor) -> Tensor:
        masks = self.head(x, frames.shape[-1])  # (B*C, S, N, L)
        return to_waves(self.decoder, masks * frames[:, None], mixture)
