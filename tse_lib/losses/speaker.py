"""Losses on speaker embeddings.

References:
    A. van den Oord, Y. Li, O. Vinyals, "Representation learning with contrastive predictive coding", 2018.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def speaker_contrast(
    output: Tensor, enrolment: Tensor, speakers: Tensor | None = None, temperature: float = 0.1
) -> Tensor:
    """InfoNCE between the embedding of an output (or target) and those of the batch's enrolments: (B, D) twice -> (B,).

    -ln exp(c_bb / temperature) / sum_k exp(c_bk / temperature) with the cosines c_bk of output b and enrolment k
    (van den Oord et al. 2018, eq. 4): to be near one's own enrolment and far from the other talkers'.

    Args:
        speakers: (B,) integers; two items of one talker are then no negatives of each other.

    Here items do mix: more items in a batch are more negatives, ln B for embeddings that tell nothing.
    """
    output, enrolment = (F.normalize(x, dim=-1, eps=1e-6) for x in (output, enrolment))
    cosines = (output[:, None] * enrolment).sum(-1)  # no matrix product: autocast would round it to bfloat16
    if speakers is not None:
        same = speakers[:, None] == speakers
        cosines = cosines.masked_fill(same.fill_diagonal_(False), -torch.inf)
    return F.cross_entropy(cosines / temperature, torch.arange(len(output), device=output.device), reduction="none")


def speaker_cross_entropy(logits: Tensor, speakers: Tensor) -> Tensor:
    """-ln softmax(logits)[speaker]: (B, speakers of the training set), (B,) integers -> (B,).

    A speaker of -1 is not known (none of the training set) and gives 0.
    """
    return F.cross_entropy(logits, speakers, ignore_index=-1, reduction="none")
