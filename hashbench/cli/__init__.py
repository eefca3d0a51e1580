"""The command line, a module for each family of commands.

May import everything but hashbench.experiments.
"""
