"""A namespace: what clients address, and what its calls have in common."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prism.access.identity import Identity
from prism.access.permissions import AccessTable, needed
from prism.calls.deadlines import Deadlines
from prism.calls.memory import Account, Memory
from prism.calls.overload import Overload
from prism.calls.policies import build_policies
from prism.calls.policies.policy import Policy
from prism.calls.policies.record import MakeRecorder
from prism.config.types import NamespaceAccess, NamespaceConfig, NamespaceLimits
from prism.contract.errors import CallError, Unauthenticated
from prism.limits.store import LimitsStore
from prism.streams.tasks import TaskPool
from prism.supervision.slot import Slot

if TYPE_CHECKING:
    from prism.calls.call import Call
    from prism.calls.relay import OpenStream


def _is_good(_: Identity) -> bool:
    return True


def _no_tasks() -> TaskPool | None:
    return None


@dataclass(eq=False, slots=True)
class Namespace:
    """One namespace, as ``config`` says, with its plugin in ``slot``. ``in_flight`` counts its
    calls between admission and answer, ``streams_by_client`` its streams likewise;
    ``open_streams`` are those with a plugin.

    ``access`` says who may do what; without it, everybody may do everything.
    ``policies`` are what its calls enter; a call keeps to those that there were when it came.
    ``shadow`` is the slot of its shadow's plugin, if it has one.
    ``deadlines``, ``is_good`` (would this identity be found again?), ``audit_refusal`` (why can no
    call be recorded?), ``overload`` (has the proxy too much to do?), ``limits_store`` (who else
    counts its calls?), ``recorder`` (opens its recording) and ``tasks`` (for what goes on beside
    calls) are the router's: set by ``attach`` once it is there, as are the proxy's accounts, the
    parents of ``requests`` and ``answers``.
    """

    config: NamespaceConfig
    slot: Slot
    access: AccessTable | None = None
    shadow: Slot | None = None
    name: str = field(init=False)
    limits: NamespaceLimits = field(init=False)
    in_flight: int = field(default=0, init=False)
    streams_by_client: Counter[str] = field(default_factory=Counter, init=False)
    open_streams: set["OpenStream"] = field(default_factory=set, init=False)
    deadlines: Deadlines = field(default_factory=Deadlines, init=False)
    is_good: Callable[[Identity], bool] = field(default=_is_good, init=False)
    audit_refusal: Callable[[], str] | None = field(default=None, init=False)
    overload: Overload = field(default_factory=Overload, init=False)
    limits_store: LimitsStore = field(default_factory=LimitsStore, init=False)
    recorder: MakeRecorder | None = field(default=None, init=False)
    tasks: Callable[[], TaskPool | None] = field(default=_no_tasks, init=False)
    policies: tuple[Policy, ...] = field(default=(), init=False)
    requests: Account = field(init=False)
    answers: Account = field(init=False)

    def __post_init__(self) -> None:
        self.name, self.limits = self.config.name, self.config.limits
        self.policies = build_policies(self)
        self.requests = Account(f"the requests of namespace {self.name!r}", 0)
        self.answers = Account(f"the untaken answers of namespace {self.name!r}", 0)
        self.use_memory(Memory())

    @classmethod
    def from_config(
        cls,
        config: NamespaceConfig,
        slot: Slot,
        *,
        is_open: bool = True,
        shadow: Slot | None = None,
    ) -> "Namespace":
        """The namespace that ``config`` describes, with its plugin in ``slot``.

        ``is_open``: clients are not authenticated, so that anybody may use it.
        """
        access = None if is_open else AccessTable(config.name, config.access)
        return cls(config, slot, access, shadow)

    def update(self, config: NamespaceConfig, *, with_access: bool = True) -> None:
        """Take over what can change under calls: it is for those that come from now on, and
        access for open streams, too. Without ``with_access`` that stays as it was.
        """
        self.config, self.limits = config, config.limits
        self.policies = build_policies(self, self.policies)
        if with_access and self.access is not None:
            self._update_access(self.access, config.access or NamespaceAccess())
        self._limit_memory()

    def _update_access(self, table: AccessTable, access: NamespaceAccess) -> None:
        if table.access != access:
            self.access = AccessTable(self.name, access)
            self.review_streams()

    def attach(
        self,
        deadlines: Deadlines,
        is_good: Callable[[Identity], bool],
        audit_refusal: Callable[[], str] | None,
        overload: Overload,
        limits_store: LimitsStore,
        tasks: Callable[[], TaskPool | None] = _no_tasks,
        recorder: MakeRecorder | None = None,
    ) -> None:
        """Have what the router's namespaces have in common."""
        self.limits_store = limits_store
        self.deadlines = deadlines
        self.is_good = is_good
        self.tasks = tasks
        if overload is not self.overload:
            self.overload = overload
            self.policies = build_policies(self, self.policies)
        if audit_refusal is not self.audit_refusal or recorder is not self.recorder:
            self.audit_refusal = audit_refusal
            self.recorder = recorder
            self.policies = build_policies(self, self.policies)

    def detach(self) -> None:
        """It takes no new calls any more: what its policies have beside calls ends."""
        for policy in self.policies:
            policy.discard()

    def use_memory(self, memory: Memory) -> None:
        """Have the proxy's accounts as parents of the namespace's."""
        self.requests.parent, self.answers.parent = memory.requests, memory.answers
        self._limit_memory()

    def _limit_memory(self) -> None:
        """Without limits of its own, one namespace has half of the proxy's memory at most."""
        limits = self.limits
        for account, limit in (
            (self.requests, limits.request_memory_bytes),
            (self.answers, limits.answer_memory_bytes),
        ):
            assert account.parent is not None  # noqa: S101 - set by use_memory
            account.limit = account.parent.limit // 2 if limit is None else limit

    def deadline(self, now: float, timeout: float | None) -> float:
        """When a call that starts ``now`` must end, if it asks for ``timeout`` seconds."""
        if timeout is None:
            return now + self.limits.timeout_seconds
        return now + min(timeout, self.limits.max_timeout_seconds)

    def admits(self, identity: Identity) -> bool:
        """May ``identity`` do anything here?"""
        return self.access is None or self.access.admits(identity)

    def review_streams(self) -> None:
        """End the streams whose caller may not have them any more."""
        for stream in list(self.open_streams):
            if stream.call is not None and (why := self.refusal(stream.call)) is not None:
                stream.end(why)

    def refusal(self, call: "Call") -> CallError | None:
        """Why ``call``, a stream, must not go on: its credential or its permission is gone."""
        if not self.is_good(call.identity):
            return Unauthenticated("the credential is not good any more", shown=True)
        declared = self.slot.operations.get(call.operation)
        if self.access is not None and declared is not None:
            try:
                self.access.check(call.identity, call.operation, needed(declared))
            except CallError as error:
                return error
        return None

    def end_streams(self, reason: CallError) -> None:
        """End every open stream with ``reason``, between two messages."""
        for stream in list(self.open_streams):
            stream.end(reason)
