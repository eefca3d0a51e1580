"""The experiments: one module each, with its sweep, its figure and, where it tests a claim, its judge.

May import everything but hashbench.cli.
"""
