"""SepFormer: transformers within and across chunks, no recurrence at all (Subakan et al., 2021, arXiv 2010.13154).

Idea: the dual-path arrangement makes attention affordable over long signals, since each one sees a chunk or every K-th
frame; deep stacks of ordinary transformer layers on both axes then replace the LSTMs.

    mixture (B,C,T) -encoder, ReLU-> frames (B*C,N,L) -norm, 1x1-> (B*C,N,L) -chunks-> (B*C,N,J,K) -[block] x R-> head
                                  sources (B,S,C,T) <-decoder- mask x frames (B*C,S,N,L) <-overlap-add, gate, 1x1-

    block: x + norm(transformer within chunks), then x + norm(transformer across chunks)
    transformer: positions added, `num_layers` layers (norm, attention, +; norm, linear, ReLU, linear, +), norm

Letters: L frames, N filters, J chunks of K frames, R blocks.

The defaults are SpeechBrain's WSJ0Mix recipe, by the paper's authors: 25,679,361 parameters. What differs:
- positions are computed for as many steps as there are. SpeechBrain stores a table of 2500, which ends its networks at
  312 s of 8 kHz audio;
- a mixture is padded to whole frames; SpeechBrain leaves up to `stride - 1` samples at its end silent.
"""

from torch import Tensor, nn

from tse_lib.nn.conditioning import Inject, as_it_is
from tse_lib.nn.dual_path import MaskHead, check_chunks, to_chunks
from tse_lib.nn.filterbank import to_frames, to_waves
from tse_lib.nn.transformer import DualPathTransformer, Transformer


class SepFormer(nn.Module):
    """The separator (see the head of this file).

    Args:
        num_sources: how many come out.
        num_filters, kernel_size, stride: of encoder and decoder, in samples.
        num_blocks, num_layers: pairs of transformers, and layers of each.
        num_heads, ffn_dim: of the layers.
        chunk_size: frames of a chunk, even.
        dropout: in attentions, feed-forward layers and on residuals, while training.
        use_positions: add them to what each transformer sees.
        gradient_checkpointing: recompute the layers in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        num_sources: int = 2,
        num_filters: int = 256,
        kernel_size: int = 16,
        stride: int = 8,
        num_blocks: int = 2,
        num_layers: int = 8,
        num_heads: int = 8,
        ffn_dim: int = 1024,
        chunk_size: int = 250,
        dropout: float = 0.0,
        use_positions: bool = True,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        check_chunks(chunk_size, "half")
        if num_filters % num_heads or num_filters % 2:
            raise ValueError(f"num_filters {num_filters} must be even and a multiple of num_heads {num_heads}")
        self.chunk_size = chunk_size
        self.feature_dims = [num_filters] * num_blocks
        self.encoder = nn.Conv1d(1, num_filters, kernel_size, stride, bias=False)
        self.norm = nn.GroupNorm(1, num_filters, 1e-8)
        self.bottleneck = nn.Conv1d(num_filters, num_filters, 1, bias=False)
        options = (num_layers, num_filters, ffn_dim, num_heads, dropout, use_positions)
        self.blocks = nn.ModuleList(
            DualPathTransformer(
                Transformer(*options, gradient_checkpointing=gradient_checkpointing),
                Transformer(*options, gradient_checkpointing=gradient_checkpointing),
                num_filters,
            )
            for _ in range(num_blocks)
        )
        self.head = MaskHead(num_sources, num_filters, num_filters, "half")
        self.decoder = nn.ConvTranspose1d(num_filters, 1, kernel_size, stride, bias=False)

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture (B, C, T) -> sources (B, S, C, T). Channels are separated one by one."""
        x, frames = self.front(mixture)
        return self.back(self.body(x), frames, mixture)

    def front(self, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T) -> features (B*C, N, L) and frames (B*C, N, L)."""
        frames = to_frames(self.encoder, mixture).relu()
        return self.bottleneck(self.norm(frames)), frames

    def body(self, x: Tensor, inject: Inject = as_it_is) -> Tensor:
        """(B, N, L) -> chunks (B, N, J, K), which is also what is injected into from the second block on."""
        x = to_chunks(inject(x, 0), self.chunk_size, "half")
        for number, block in enumerate(self.blocks):
            x = block(inject(x, number) if number else x)
        return x

    def back(self, x: Tensor, frames: Tensor, mixture: Tensor) -> Tensor:
        masks = self.head(x, frames.shape[-1])  # (B*C, S, N, L)
        return to_waves(self.decoder, masks * frames[:, None], mixture)
