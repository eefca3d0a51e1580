"""Standard SHA-2 and Merkle trees on every accelerator: kernels, measured and verified."""

from hashbench.hashing.selection import available, choose, devices
from hashbench.merkle.rfc9162 import inclusion_proof, merkle_tree_hash, verify_inclusion

__all__ = ["available", "choose", "devices", "inclusion_proof", "merkle_tree_hash", "verify_inclusion"]
