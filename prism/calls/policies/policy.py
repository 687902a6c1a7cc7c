"""The shape of a policy."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable

from prism.calls.namespace import Namespace
from prism.calls.request import Handler, Reply, Request


class Policy(ABC):
    """One rule for the calls of one namespace, wrapped around the next policy.

    Made once per namespace; calls of many tasks pass through at the same time.
    """

    def __init__(self, namespace: Namespace, following: Handler) -> None:
        self.namespace = namespace
        self.following = following

    @abstractmethod
    def __call__(self, request: Request) -> Awaitable[Reply]:
        """Refuse the call by raising a ``CallError``, or pass it on.

        Most are ``async def``. One that seldom has anything to do returns
        ``self.following(request)`` itself, which saves every call a coroutine.
        """
