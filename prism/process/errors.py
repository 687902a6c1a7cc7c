"""Errors of a rolling restart."""

from prism.contract.errors import PrismError


class HandoverFailed(PrismError):
    """A successor did not take this process's place; the message says why."""
