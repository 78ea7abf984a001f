"""Options of a published constructor and ours: one table a network, read in both directions."""

import difflib
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REQUIRED = object()


@dataclass(frozen=True)
class Option:
    """One option of a published constructor.

    Attributes:
        default: there; REQUIRED: it has none.
        ours: our name of it; "": we have no such option.
        values: published value -> ours; None: they are the same. A value that is not among them is an error. Without
            `ours`, the values that our network amounts to, or None where the option changes nothing that is computed.
    """

    default: Any
    ours: str = ""
    values: Mapping[Any, Any] | tuple[Any, ...] | None = None


Options = Mapping[str, Option]


def our_params(options: Options, config: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The published constructor's arguments as our model's.

    Raises:
        ValueError: an unknown option, one that is missing, or a value that we have no counterpart of.
    """
    params = {}
    for name in config:
        if name not in options:
            near = difflib.get_close_matches(str(name), options, 1)
            raise ValueError(f"{what}: unknown option '{name}'{f', the nearest is {near[0]!r}' if near else ''}")
    for name, option in options.items():
        value = config.get(name, option.default)
        if value is REQUIRED:
            raise ValueError(f"{what}: the option '{name}' is missing")
        if option.values is not None:
            known = [key for key in option.values if key == value and isinstance(key, bool) == isinstance(value, bool)]
            if not known:
                listed = ", ".join(repr(key) for key in option.values)
                raise ValueError(f"{what}: {name} {reprlib.repr(value)} is not built here, only {listed}")
            value = option.values[known[0]] if isinstance(option.values, Mapping) else value
        if option.ours:
            params[option.ours] = value
    return params


def their_config(options: Options, params: Mapping[str, Any]) -> dict[str, Any]:
    """Our model's arguments, all of them, as the published constructor's.

    Raises:
        ValueError: it has no counterpart of a value.
    """
    config = {}
    for name, option in options.items():
        if not option.ours:
            config[name] = option.default if not option.values else next(iter(option.values))
        elif isinstance(option.values, Mapping):
            fitting = [theirs for theirs, ours in option.values.items() if ours == params[option.ours]]
            if not fitting:
                raise ValueError(f"this layout has no {option.ours} {params[option.ours]!r}")
            config[name] = fitting[0]
        else:
            config[name] = params[option.ours]
    return {name: value for name, value in config.items() if value is not REQUIRED}
