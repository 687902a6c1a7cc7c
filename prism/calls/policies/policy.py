"""The shape of a policy."""

from abc import ABC
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

if TYPE_CHECKING:
    from prism.calls.call import Call
    from prism.calls.namespace import Namespace


@mypyc_attr(allow_interpreted_subclasses=True)
class Policy(ABC):
    """One rule for the calls of one namespace. Made once; every call enters and leaves it.

    ``is_left``: there is something to do when a call leaves.
    """

    def __init__(self, namespace: "Namespace") -> None:
        self.namespace = namespace
        self.is_left = type(self).leave is not Policy.leave

    def enter(self, call: "Call") -> bool | None:
        """Let the call pass, refuse it by raising a ``CallError``, or have it wait.

        One that raises has changed nothing: ``leave`` is not called. One that returns True has
        arranged that ``call.proceed`` is called later.
        """

    def precheck(self, call: "Call") -> None:
        """The call waits for its params: raise what ``enter`` would raise now, if it comes later.
        Refusing before the body is read is cheaper for both sides."""

    def leave(self, call: "Call") -> None:
        """The call is over. Called exactly once after ``enter``, in reverse order."""
