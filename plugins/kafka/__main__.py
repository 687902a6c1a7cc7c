"""``python -m prism_plugins.kafka``: the plugin as a process."""

import sys

from prism.sdk import serve

from . import KafkaPlugin

SWITCH_INTERVAL = 0.001
"""Seconds that a thread waits for Python's lock before it asks for it. The threads around
librdkafka do little each time, and what waits for them meanwhile is a whole batch."""

sys.setswitchinterval(SWITCH_INTERVAL)
serve(KafkaPlugin)
