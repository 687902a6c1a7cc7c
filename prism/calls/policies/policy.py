"""The shape of a policy."""

from abc import ABC
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from mypy_extensions import mypyc_attr

from prism.contract.errors import CallError
from prism.contract.messages import ExecuteResponse

if TYPE_CHECKING:
    from prism.calls.call import Call
    from prism.calls.namespace import Namespace


class Measure(NamedTuple):
    """One metric of a policy, for Prometheus; ``labels`` are those beside ``namespace``."""

    name: str
    kind: Literal["counter", "gauge"]
    text: str
    labels: tuple[str, ...] = ()


@mypyc_attr(allow_interpreted_subclasses=True)
class Witness:
    """Sees what becomes of one call with the plugin: a policy puts it into ``call.witnesses``.

    It changes nothing, takes next to no time, and raises nothing: the client's answer waits.
    """

    def began(self, call: "Call") -> None:
        """The call, which may be made, is about to be given to an instance; once more for each
        further attempt."""

    def answered(self, call: "Call", response: ExecuteResponse) -> None:
        """The plugin has answered, well or badly."""

    def ended(self, call: "Call", error: CallError | None) -> None:
        """The call is over: with ``error``, or because it was answered."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Policy(ABC):
    """One rule for the calls of one namespace. Made once; every call enters and leaves it.

    ``name`` is what operators know it by, where it has something to show: its key in the
    configuration; ``measures`` are its metrics. ``is_left``: there is something to do when a call
    leaves.
    """

    name: ClassVar[str] = ""
    measures: ClassVar[tuple[Measure, ...]] = ()

    def __init__(self, namespace: "Namespace") -> None:
        self.namespace = namespace
        self.is_left = type(self).leave is not Policy.leave
        self.configure()

    @classmethod
    def applies(cls, namespace: "Namespace") -> bool:
        """Is it among the policies of ``namespace``, as that is configured now?"""
        return True

    def configure(self) -> None:
        """Take over the namespace's configuration, which may be another one than before. What the
        policy has learnt or counted stays."""

    def discard(self) -> None:
        """It is not among the namespace's policies any more; calls that entered still leave."""

    def state(self) -> dict[str, object]:
        """What operators are shown of it, as JSON: ``prism namespace describe``, the admin API."""
        return {}

    def measure(self) -> Iterator[tuple[Measure, tuple[str, ...], float]]:
        """The value of each of ``measures`` now, for each set of its labels."""
        yield from ()

    def enter(self, call: "Call") -> bool | None:
        """Let the call pass, refuse it by raising a ``CallError``, or have it wait.

        One that raises has changed nothing: ``leave`` is not called. One that returns True has
        arranged that ``call.proceed`` is called later.
        """
        return None  # said, since mypyc takes for granted that nobody calls what has no body

    def precheck(self, call: "Call") -> None:
        """The call waits for its params: raise what ``enter`` would raise now, if it comes later.
        Refusing before the body is read is cheaper for both sides."""

    def leave(self, call: "Call") -> None:
        """The call is over. Called exactly once after ``enter``, in reverse order."""
