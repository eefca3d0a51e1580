"""Merkle trees in plain Python, as their standards define them: the reference for everything faster.

May import hashbench.kernels.
"""
