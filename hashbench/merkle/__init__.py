"""Merkle trees in plain Python, as their standards define them: the reference for all faster code.

May import hashbench.kernels.
"""
