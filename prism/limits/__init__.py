"""How often something may be done: rates, what is used of them, and a store that proxies share.

``gcra`` is the arithmetic, ``leases`` what a proxy takes of a shared limit at a time, both as
plain values; ``store`` asks the Redis that counts for all.
"""
