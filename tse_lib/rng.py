"""Named randomness: every draw is a function of a seed and names, never of order, worker, device or clock."""

import hashlib
import json

import numpy as np


def seed_of(seed: int, *names: str | int) -> int:
    """A 128-bit integer that depends on `seed` and every name (and on nothing else)."""
    text = json.dumps([seed, *names], ensure_ascii=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def rng(seed: int, *names: str | int) -> np.random.Generator:
    """A generator for one knob of one thing: `rng(seed, "train", mix_id, "snr_db")`.

    A new knob takes a new name, so it never moves the draws of the old ones.
    """
    return np.random.Generator(np.random.PCG64(seed_of(seed, *names)))
