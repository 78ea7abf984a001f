"""Tensor names of a published layout and ours: one table, read in both directions.

A table is text, a line for each kind of tensor:

    norm.weight         layer_norm.gamma        D  11D
    blocks.*.in_conv.*  TCN.*.shared_block.0.*

First our name, then the published one: `*` is a part between dots and `**` any number of them, carried over in their
order; the first line that fits decides. Where the shapes differ, two words name the axes, ours first: a letter each,
1 for an axis of one. `{h}` in a published name counts heads: they have a tensor each there, and ours joins them along
its first axis.

Tensors that a layout stores and ours computes (positions, frequencies) are listed by name with the values that they
must have.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

SHOWN = 8  # names in an error


@dataclass(frozen=True)
class Names:
    """How a layout names the tensors of one network.

    Attributes:
        table: as above.
        num_heads: what `{h}` runs over.
        computed: published tensors that ours computes, with their values.
    """

    table: str
    num_heads: int = 1
    computed: Mapping[str, Tensor] = field(default_factory=dict)


def to_published(weights: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Our tensors in the published layout, those that it stores and ours computes included.

    Raises:
        ValueError: the layout has no place for a tensor.
    """
    published: dict[str, Tensor] = {}
    for key, value in weights.items():
        theirs, ours_axes, their_axes = _published_names(names, key)
        parts = value.chunk(len(theirs)) if len(theirs) > 1 else [value]  # a count has no axis to cut
        for name, part in zip(theirs, parts, strict=True):
            if name in published:
                raise ValueError(f"two tensors would be '{name}' in this layout")
            published[name] = _arrange(part, ours_axes, their_axes).contiguous()
    dtype = next(iter(weights.values())).dtype
    return published | {name: value.to(dtype, copy=True) for name, value in names.computed.items()}


def from_published(
    published: Mapping[str, Tensor], names: Names, wanted: Mapping[str, Tensor], path: str
) -> dict[str, Tensor]:
    """Published tensors as ours.

    Args:
        published: all that the file holds.
        wanted: tensors of our network, of which only names and shapes count.
        path: of the file, for the error.

    Raises:
        ValueError: names or shapes differ from what the layout has for such a network, or values are not finite.
    """
    given = {name: value for name, value in published.items() if name not in names.computed}
    refuse_misfit(path, given, to_published(wanted, Names(names.table, names.num_heads)))
    for name in published.keys() - given.keys():
        _refuse_other_values(path, name, published[name], names.computed[name])
    ours = {}
    for key in wanted:
        theirs, ours_axes, their_axes = _published_names(names, key)
        parts = [_arrange(given[name], their_axes, ours_axes) for name in theirs]
        ours[key] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return ours


def refuse_misfit(path: str, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """ValueError unless both have the same names and shapes, and what is given is finite."""
    missing, unexpected = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    both = sorted(wanted.keys() & given.keys())
    shapes = [
        f"{key} {list(given[key].shape)} for {list(wanted[key].shape)}"
        for key in both
        if wanted[key].shape != given[key].shape
    ]
    kinds = [key for key in both if given[key].is_floating_point() != wanted[key].is_floating_point()]
    faults = [
        f"{len(keys)} {kind}: {', '.join(keys[:SHOWN])}{', …' if len(keys) > SHOWN else ''}"
        for kind, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
            ("of whole numbers in place of others, or the reverse", kinds),
        )
        if keys
    ]
    if faults:
        raise ValueError(f"{path}: tensors do not fit; {'; '.join(faults)}")
    broken = [key for key in both if not given[key].isfinite().all()]
    if broken:
        raise ValueError(
            f"{path}: holds values that are not finite, in {', '.join(broken[:SHOWN])}; a failed training?"
        )


def _refuse_other_values(path: str, name: str, found: Tensor, expected: Tensor) -> None:
    """A longer or shorter table is as good: positions begin alike."""
    if found.dim() == expected.dim():
        common = tuple(slice(min(sizes)) for sizes in zip(found.shape, expected.shape, strict=True))
        ours = expected[common].double()
        tolerance = max(1e-3, 4e-7 * max(ours.shape))  # float32 counts no finer to the last position
        if (found[common].double() - ours).abs().max() <= tolerance * ours.abs().max():
            return
    raise ValueError(f"{path}: '{name}' differs from the values that this layout's networks have and ours computes")


@dataclass(frozen=True)
class Line:
    """A line of a table."""

    ours: re.Pattern[str]
    theirs: str
    ours_axes: str
    their_axes: str


@functools.lru_cache
def _lines(table: str) -> list[Line]:
    lines = []
    for text in filter(None, map(str.strip, table.splitlines())):
        ours, theirs, *axes = text.split()
        pattern = re.escape(ours).replace(r"\*\*", "(.+)").replace(r"\*", "([^.]+)")
        lines.append(Line(re.compile(pattern), theirs, *(axes or ["", ""])))
    return lines


def _published_names(names: Names, key: str) -> tuple[list[str], str, str]:
    for line in _lines(names.table):
        if found := line.ours.fullmatch(key):
            theirs = line.theirs
            for part in found.groups():
                theirs = re.sub(r"\*+", part, theirs, count=1)
            heads = range(names.num_heads) if "{h}" in theirs else [0]
            return [theirs.replace("{h}", str(head)) for head in heads], line.ours_axes, line.their_axes
    raise ValueError(f"this layout has no place for '{key}'")


def _arrange(x: Tensor, axes: str, wanted: str) -> Tensor:
    """Axes in another order, with or without axes of one; nothing if `axes` is empty."""
    if not axes:
        return x
    letters = axes.replace("1", "")
    x = x.reshape([size for size, axis in zip(x.shape, axes, strict=True) if axis != "1"])
    x = x.permute([letters.index(axis) for axis in wanted if axis != "1"])
    for place, axis in enumerate(wanted):
        if axis == "1":
            x = x.unsqueeze(place)
    return x
