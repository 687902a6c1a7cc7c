"""Floor 0: the contract. Messages, status codes, errors, configuration types.

Knows msgspec and nothing else: no network, no clock, no other floor.
"""
