"""TD-SpeakerBeam: a Conv-TasNet that is told whom to extract (Delcroix et al., ICASSP 2020, arXiv 2001.08378).

Idea: a small Conv-TasNet of its own turns the enrolment into a vector, which scales the features of the extractor once,
behind the block `adapt_at`: its one half what the block adds to its input, the other what it skips to the mask.

    enroll (B,E,T_e) -encoder-> (B*E,N,L_e) -norm, 1x1, [block] x X, skips, 1x1, mean over frames-> embedding (B,2A)
    mixture (B,C,T) -encoder-> (B*C,N,L) -norm, 1x1, [block] x (X*R), skips, 1x1-> mask (B*C,N,L)
                                          ^ adapted behind block adapt_at            estimate (B,1,C,T) <-decoder-

Letters: L frames, N filters, D bottleneck, A features of an adaptation, X blocks a repeat, R repeats.

The defaults are the conf that the authors published for Libri2Mix at 8 kHz: 6,704,194 parameters. What differs from
their code:
- a mixture is padded to whole frames; they leave up to `stride - 1` samples at its end silent;
- each enrolment is encoded by its own length, since the norm over the whole utterance would hear the padding.
The residual convolutions of the last blocks lead nowhere, as in Conv-TasNet; published counts have them.
"""

import torch
from torch import Tensor, nn

from tse_lib.nn.enrolment import each_at_its_length, mean_of_present, sizes_of
from tse_lib.nn.filterbank import MASKS, check_mask, to_frames, to_waves
from tse_lib.nn.tcn import TCNBlock, check_norm, new_norm

ADAPTATIONS = {"mul": 1, "muladd": 2, "concat": 0}  # features of the embedding for each that is adapted; 0: any


class Adaptation(nn.Module):
    """Features and a vector to features: (B, D, L), (B, A) -> (B, D, L).

    mul scales each feature (A is D), muladd scales and shifts it (A is 2 D), concat maps both to D linearly (any A).
    """

    def __init__(self, kind: str, dim: int, embedding_dim: int):
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(dim + embedding_dim, dim) if kind == "concat" else None

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        if self.linear is not None:
            joined = torch.cat((x, vector[..., None].expand(-1, -1, x.shape[-1])), 1)
            return self.linear(joined.transpose(1, 2)).transpose(1, 2)
        if self.kind == "muladd":
            scale, shift = vector[..., None].chunk(2, 1)
            return scale * x + shift
        return vector[..., None] * x


class TCN(nn.Module):
    """Conv-TasNet between its filters: (B, N, L) -> (B, out_dim, L), adapted to a `voice` (B, 2A or A) if there is one.

    Args:
        in_dim, out_dim, dim: N, features that come out, and D.
        hidden_dim, skip_dim, kernel_size, num_blocks, num_repeats, norm, causal: of the blocks.
        adapt_at: number of the block behind which features are adapted; None: nowhere.
        adaptation, embedding_dim: how, and A.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        dim: int,
        hidden_dim: int,
        skip_dim: int,
        kernel_size: int,
        num_blocks: int,
        num_repeats: int,
        norm: str,
        causal: bool,
        adapt_at: int | None = None,
        adaptation: str = "mul",
        embedding_dim: int = 0,
    ):
        super().__init__()
        self.adapt_at = adapt_at
        self.norm = new_norm(norm, in_dim)
        self.bottleneck = nn.Conv1d(in_dim, dim, 1)
        self.blocks = nn.ModuleList(
            TCNBlock(dim, hidden_dim, skip_dim, kernel_size, 2**number, norm, causal)
            for _ in range(num_repeats)
            for number in range(num_blocks)
        )
        adapted = 0 if adapt_at is None else 2 if skip_dim else 1
        self.adaptations = nn.ModuleList(Adaptation(adaptation, dim, embedding_dim) for _ in range(adapted))
        self.out_act = nn.PReLU()
        self.out_conv = nn.Conv1d(skip_dim or dim, out_dim, 1)

    def forward(self, frames: Tensor, voice: Tensor | None = None) -> Tensor:
        x, skips = self.bottleneck(self.norm(frames)), None
        for number, block in enumerate(self.blocks):
            residual, skip = block(x)
            if number == self.adapt_at and voice is not None:
                voices = voice.chunk(len(self.adaptations), 1)
                residual = self.adaptations[0](residual, voices[0])
                skip = None if skip is None else self.adaptations[1](skip, voices[1])
            x = x + residual
            skips = skip if skips is None else skips + skip
        return self.out_conv(self.out_act(x if skips is None else skips))


class TDSpeakerBeam(nn.Module):
    """The extractor (see the head of this file).

    Args:
        num_filters, kernel_size, stride: of encoders and decoder, in samples.
        bottleneck_dim, hidden_dim, skip_dim: channels between blocks, inside one, to the mask (0: no skips).
        conv_kernel_size, num_blocks, num_repeats: of the depthwise convolutions, X and R.
        adapt_at: number of the block, from 0, behind which features are adapted.
        adaptation: mul, muladd or concat.
        embedding_dim: A: bottleneck_dim for mul, twice that for muladd, any for concat.
        norm: gLN (the whole utterance), cLN (what was heard so far), LN (each frame by itself) or BN (the batch).
        causal: the depthwise convolutions of the extractor see the past only; those for the enrolment see all.
        encoder_relu: ReLU on the mixture's frames.
        mask: relu or sigmoid.
    """

    has_idle_parameters = True  # residuals of the last blocks

    def __init__(
        self,
        num_filters: int = 512,
        kernel_size: int = 16,
        stride: int = 8,
        bottleneck_dim: int = 128,
        hidden_dim: int = 512,
        skip_dim: int = 128,
        conv_kernel_size: int = 3,
        num_blocks: int = 8,
        num_repeats: int = 3,
        adapt_at: int = 7,
        adaptation: str = "mul",
        embedding_dim: int = 128,
        norm: str = "gLN",
        causal: bool = False,
        encoder_relu: bool = False,
        mask: str = "relu",
    ):
        super().__init__()
        check_mask(mask)
        check_norm("norm", norm)
        if adaptation not in ADAPTATIONS:
            raise ValueError(f"adaptation: '{adaptation}' is none of {', '.join(ADAPTATIONS)}")
        if not 0 <= adapt_at < num_blocks * num_repeats:
            raise ValueError(f"adapt_at: there is no block {adapt_at}, only 0 to {num_blocks * num_repeats - 1}")
        if skip_dim not in (0, bottleneck_dim):
            raise ValueError(f"skip_dim {skip_dim} must be bottleneck_dim {bottleneck_dim}, as both are adapted, or 0")
        wanted = ADAPTATIONS[adaptation] * bottleneck_dim
        if wanted and embedding_dim != wanted:
            raise ValueError(f"embedding_dim {embedding_dim} must be {wanted} for adaptation {adaptation}")
        self.encoder_relu, self.mask = encoder_relu, mask
        sizes = (bottleneck_dim, hidden_dim, skip_dim, conv_kernel_size, num_blocks)
        vectors = embedding_dim * (2 if skip_dim else 1)
        self.encoder = nn.Conv1d(1, num_filters, kernel_size, stride, bias=False)
        self.masker = TCN(
            num_filters, num_filters, *sizes, num_repeats, norm, causal, adapt_at, adaptation, embedding_dim
        )
        self.decoder = nn.ConvTranspose1d(num_filters, 1, kernel_size, stride, bias=False)
        self.enroll_encoder = nn.Conv1d(1, num_filters, kernel_size, stride, bias=False)
        self.speaker_encoder = TCN(num_filters, vectors, *sizes, 1, norm, causal=False)

    def encode(self, enroll: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Enrolments to a condition.

        Args:
            enroll: (B, E, T_e), zero-padded.
            lengths: (B, E) samples of each, on the CPU; 0 for an enrolment that is not there. None: all whole.

        Returns:
            {"embedding": (B, 2A), or (B, A) without skips}, the mean over the enrolments of an item.
        """

        def vectors_of(waves: Tensor) -> Tensor:
            return self.speaker_encoder(to_frames(self.enroll_encoder, waves[:, None])).mean(-1)

        vectors = each_at_its_length(vectors_of, enroll.flatten(0, 1), sizes_of(enroll, lengths))
        return {"embedding": mean_of_present(torch.stack(vectors), lengths, len(enroll))}

    def forward(self, mixture: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """mixture (B, C, T), condition of `encode` -> estimate (B, 1, C, T). Channels are extracted one by one."""
        frames = to_frames(self.encoder, mixture)  # (B*C, N, L)
        frames = frames.relu() if self.encoder_relu else frames
        voice = condition["embedding"].repeat_interleave(mixture.shape[1], 0)
        mask = MASKS[self.mask](self.masker(frames, voice))
        return to_waves(self.decoder, (mask * frames)[:, None], mixture)
