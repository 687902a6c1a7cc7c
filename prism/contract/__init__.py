"""The contract: messages, status codes, errors, names.

Knows msgspec and nothing else: no network, no clock, nothing else of Prism.
"""
