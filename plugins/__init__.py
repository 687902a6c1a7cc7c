"""The plugins that ship with Prism, installed as ``prism_plugins``.

Each folder is a program of its own: it uses ``prism.sdk`` and ``prism.contract``
and nothing else of Prism.
"""
