"""``python -m prism_plugins.redis``: the plugin as a process."""

from prism.sdk import serve

from . import RedisPlugin

serve(RedisPlugin)
