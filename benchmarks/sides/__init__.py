"""Prism and its peers, each in processes of its own, ready to be put under load."""
