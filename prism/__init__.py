"""Prism: one door before many data stores.

Importing this package is cheap on purpose: it loads nothing but its version.
"""

__version__ = "0.1.0"
