"""``python -m prism_plugins.sqlite``: the plugin as a process."""

from prism.sdk import serve

from .plugin import SQLitePlugin

serve(SQLitePlugin)
