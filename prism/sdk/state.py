"""The states of a plugin's life."""

from enum import Enum


class State(Enum):
    """The life of a plugin, in order; FAILED instead of SERVING when start() raised."""

    NEW = "not initialized"
    STARTING = "still starting"
    SERVING = "serving"
    FAILED = "not initialized: its start failed"
    STOPPING = "stopping"
    STOPPED = "stopped"
