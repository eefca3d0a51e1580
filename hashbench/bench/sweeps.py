"""What the sweeps of several experiments have in common."""

from __future__ import annotations

from hashbench.kernels import Strategy

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30

CHUNK_SIZE = 4 * KiB
"""Bytes per chunk, where an experiment does not vary them."""

SIZE = {"gpu": 8 * GiB, "cpu": 128 * MiB}
"""Bytes of input that keep a whole device busy, by kind of device."""

STRATEGIES: tuple[Strategy, ...] = ("batched", "tree")
"""The strategies that users call; the leaves alone are a step of the tree."""
