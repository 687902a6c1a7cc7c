"""Measures Prism side by side with its peers; ``python -m benchmarks --help``.

Every comparison takes its sides in turns, in one run, on the same machine, and
says medians and ratios: absolute numbers belong to the machine they come from.
"""
