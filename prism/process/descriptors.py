"""How many connections fit into the descriptors that this process may have open."""

import logging
import resource

logger = logging.getLogger("prism.process")

RESERVE = 256
"""Descriptors for everything but clients: the admin port, plugins, files, a successor."""


def connections_that_fit(wanted: int) -> int:
    """Raise the soft limit as far as ``wanted`` connections need and the hard one lets.

    Returns ``wanted``, or what fits: a process without a free descriptor cannot
    accept, open a log or start a plugin, so clients must run into a limit before.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = wanted + RESERVE
    needed = min(wanted + RESERVE, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (needed, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
    fits = max(needed - RESERVE, needed // 2)
    if fits < wanted:
        logger.warning(
            "%d open files are allowed, so at most %d connections are kept instead of %d "
            "(ulimit -n, or LimitNOFILE= of systemd)",
            hard,
            fits,
            wanted,
        )
    return min(fits, wanted)
