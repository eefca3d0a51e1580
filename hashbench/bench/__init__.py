"""Measurement: the protocol, experiments as such, machines, rows and readings, and their comparison.

May import hashbench.model and what is below it.
"""
