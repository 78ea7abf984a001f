"""USEF-SepFormer: extraction without a speaker embedding, on SepFormer (Zeng and Li 2024, arXiv 2409.02615).

Idea: a transformer whose queries are the mixture's frames and whose keys and values are the enrolment's says for each
frame of the mixture what the target sounds like; that scales and shifts the frame before SepFormer's blocks
(sepformer.py) make a mask of it.

    mixture (B,C,T) -encoder, ReLU-> frames (B*C,N,L) -norm, 1x1-> (B*C,L,N) -------------> scaled, shifted (B*C,L,N)
                                                                       |asks                   |
    enroll (B,E,T_e) -each alone, the same-> (B,L_e,N) -layers of cross-attention-> (B*C,L,N) -+
    -norm-> (B*C,N,L) -chunks-> (B*C,N,J,K) -[block] x R-> head
    estimate (B,1,C,T) <-decoder- mask x frames (B*C,1,N,L) <-overlap-add, gate, 1x1-

Letters: L frames, N filters, J chunks of K frames, R blocks.

The defaults are the published 8 kHz network, of 29,168,385 parameters. Its blocks are SepFormer's with a linear map
after each transformer, and its layers normalise last. What differs from the original (github.com/ZBang/USEF-TSE):
- it leaves up to `stride - 1` samples at the end silent, and out of enrolments; here both are padded to whole frames.
  `compat: true` computes what it computes;
- positions are computed for as many steps as there are, where it stores tables of 20000;
- frames of several enrolments are attended to together, padding is masked, and channels are extracted one by one.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from tse_lib.nn.dual_path import MaskHead, check_chunks, to_chunks
from tse_lib.nn.enrolment import frames_of_each
from tse_lib.nn.filterbank import to_frames, to_waves
from tse_lib.nn.transformer import DualPathTransformer, Transformer


class USEFSepFormer(nn.Module):
    """The extractor (see the head of this file).

    Args:
        num_filters, kernel_size, stride: of encoder and decoder, in samples.
        fusion_layers: of cross-attention between mixture and enrolment.
        num_blocks: R, pairs of transformers.
        intra_layers, inter_layers: of the transformers within and across chunks.
        num_heads, ffn_dim: of all layers.
        chunk_size: frames of a chunk, even.
        dropout: in attentions, feed-forward layers and on residuals, while training.
        norm_first: layers normalise what goes in, as SepFormer's do.
        compat: leave out what fills no whole frame, as the original does.
        gradient_checkpointing: recompute the layers in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        num_filters: int = 256,
        kernel_size: int = 16,
        stride: int = 8,
        fusion_layers: int = 4,
        num_blocks: int = 2,
        intra_layers: int = 8,
        inter_layers: int = 8,
        num_heads: int = 8,
        ffn_dim: int = 1024,
        chunk_size: int = 250,
        dropout: float = 0.0,
        norm_first: bool = False,
        compat: bool = False,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        check_chunks(chunk_size, "half")
        if num_filters % num_heads or num_filters % 2:
            raise ValueError(f"num_filters {num_filters} must be even and a multiple of num_heads {num_heads}")
        self.chunk_size, self.compat = chunk_size, compat

        def transformer(num_layers: int, use_positions: bool = True) -> Transformer:
            options = (num_layers, num_filters, ffn_dim, num_heads, dropout, use_positions, norm_first)
            return Transformer(*options, gradient_checkpointing)

        self.encoder = nn.Conv1d(1, num_filters, kernel_size, stride, bias=False)
        self.norm = nn.GroupNorm(1, num_filters, 1e-8)
        self.bottleneck = nn.Conv1d(num_filters, num_filters, 1, bias=False)
        self.fusion = transformer(fusion_layers, use_positions=False)
        self.scale = nn.Linear(num_filters, num_filters)
        self.shift = nn.Linear(num_filters, num_filters)
        self.fusion_norm = nn.GroupNorm(1, num_filters, 1e-8)
        self.blocks = nn.ModuleList(
            DualPathTransformer(transformer(intra_layers), transformer(inter_layers), num_filters, linear=True)
            for _ in range(num_blocks)
        )
        self.head = MaskHead(1, num_filters, num_filters, "half")
        self.decoder = nn.ConvTranspose1d(num_filters, 1, kernel_size, stride, bias=False)

    def encode(self, enroll: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Enrolments to a condition: plain tensors that can be kept for a long file or saved as a profile.

        Args:
            enroll: (B, E, T_e), zero-padded.
            lengths: (B, E) samples of each, on the CPU; 0 for an enrolment that is not there. None: all whole.

        Returns:
            {"frames": (B, L_e, N)}: features of all E enrolments one after the other; with "valid" (B, L_e), false for
            padding, where items differ in L_e.
        """

        def front(waves: Tensor) -> Tensor:
            return self._features(self._frames(self._cut(waves[:, None])))

        frames, valid = frames_of_each(front, enroll, lengths)
        return {"frames": frames} if valid is None else {"frames": frames, "valid": valid}

    def forward(self, mixture: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """mixture (B, C, T), condition of `encode` -> estimate (B, 1, C, T). Channels are extracted one by one."""
        channels, size = mixture.shape[1:]
        source, valid = condition["frames"], condition.get("valid")
        if channels > 1:
            source = source.repeat_interleave(channels, 0)
            valid = None if valid is None else valid.repeat_interleave(channels, 0)
        mixture = self._cut(mixture)
        frames = self._frames(mixture)  # (B*C, N, L)
        x = self._features(frames)  # (B*C, L, N)
        target = self.fusion(x, source, valid)  # (B*C, L, N)
        x = self.fusion_norm((x * self.scale(target) + self.shift(target)).mT)
        x = to_chunks(x, self.chunk_size, "half")  # (B*C, N, J, K)
        for block in self.blocks:
            x = block(x)
        masks = self.head(x, frames.shape[-1])  # (B*C, 1, N, L)
        estimate = to_waves(self.decoder, masks * frames[:, None], mixture)
        return F.pad(estimate, (0, size - estimate.shape[-1]))

    def _cut(self, waves: Tensor) -> Tensor:
        """(…, T) -> with `compat` only what whole frames hold, one at least."""
        kernel, stride, size = self.encoder.kernel_size[0], self.encoder.stride[0], waves.shape[-1]
        return waves[..., : size - max(0, size - kernel) % stride] if self.compat else waves

    def _frames(self, waves: Tensor) -> Tensor:
        """(B, C, T) -> (B*C, N, L)."""
        return to_frames(self.encoder, waves).relu()

    def _features(self, frames: Tensor) -> Tensor:
        """(rows, N, L) -> (rows, L, N)."""
        return self.bottleneck(self.norm(frames)).mT
