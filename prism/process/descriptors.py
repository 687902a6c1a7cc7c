"""How many files this process may have open: sockets, plugins and databases each take some."""

import resource

from prism.contract.errors import PrismError

LEAST = 64
"""Without these a proxy cannot start one plugin, listen, and accept a few connections."""

MOST = 2**20
"""The kernel's own bound by default. A hard limit is often beyond (containers have 2^30), and
programs that close every number up to the limit would be busy for minutes."""


class TooFewDescriptors(PrismError):
    """The limit on open files is too low to start."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"this process may have {limit} files open, and the proxy needs at least {LEAST}: "
            "raise the limit (ulimit -n, or LimitNOFILE= of systemd)"
        )


def raise_limit() -> int:
    """Raise the soft limit as far as the hard one lets; returns what it is then.

    Raises:
        TooFewDescriptors: even so, the proxy cannot start.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft != resource.RLIM_INFINITY and soft < LEAST:
        raise TooFewDescriptors(soft)
    return soft
