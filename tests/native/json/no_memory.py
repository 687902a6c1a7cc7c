"""Scan an ordinary body, and one that takes four allocations: for a key that holds an escape,
for many keys, for more, and for the table in which they are compared."""

from prism.calls._json import is_params

members = [f'"k{number}":0' for number in range(128)]
assert is_params(f"{{{','.join(members)}}}".encode())
members += [rf'"k\n{number}":0' for number in range(200)]
try:
    print(is_params(f"{{{','.join(members)}}}".encode()))
except MemoryError:
    print("no memory")
