"""Load over HTTP and over frames, made by processes of their own.

``h2load`` makes as many calls as a server takes, ``generator`` a fixed number a second.
"""
