"""``python -m prism_plugins.redis``: the plugin as a process."""

from prism.sdk import serve

from .plugin import RedisPlugin

serve(RedisPlugin)
