"""``python -m prism_plugins.postgres``: the plugin as a process."""

from prism.sdk import serve

from . import PostgresPlugin

serve(PostgresPlugin)
