"""How far the inside of one network is from that of another."""

from torch import Tensor


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance over the teacher's square: (B, ...), (B, ...) -> (B,). 0 is equal, 1 is as good as nothing.

    No gradient goes to the teacher, and its scale does not matter.
    """
    difference = (student.float() - teacher.detach().float()).flatten(1).square().sum(1)
    return difference / teacher.detach().float().flatten(1).square().sum(1).clamp_min(1e-8)
