"""The proxy's side of plugins: how they are started, watched, replaced and ended.

From the bottom: ``instance`` and ``slot`` (what calls see), ``lifecycle`` (the table of
states), ``events`` (what is told), ``process`` and ``guardian`` (spawned plugins), ``loading``
(plugins in this process), ``connect`` (how each is reached), ``health``, ``generation`` (one
instance from its start to its end), ``keeper`` (that one of them serves), ``status`` (what is
answered), ``canary`` and ``replacement`` (reload, restart, drain), ``apply`` (many namespaces
as one change), ``supervisor`` (the one API of all this). docs/lifecycle.md tells it from outside.
"""
