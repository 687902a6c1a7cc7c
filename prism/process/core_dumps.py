"""A crash of the proxy, or of a plugin, must not write its memory, with all secrets, to a file."""

import resource


def leave_none() -> None:
    """Have this process, and those it starts, leave no core dump. Only the soft limit is lowered,
    so that an operator who hunts a crash can raise it (``prlimit --core``)."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
