"""Standard SHA-2 and Merkle trees on every accelerator: kernels, measured and verified."""

from hashbench.merkle import inclusion_proof, merkle_tree_hash, verify_inclusion
from hashbench.selection import available, choose, devices

__all__ = ["available", "choose", "devices", "inclusion_proof", "merkle_tree_hash", "verify_inclusion"]
