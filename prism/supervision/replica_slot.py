"""The slots of a plugin with several replicas: one for each, and one over them for the calls.

Each replica has a keeper of its own with an ordinary slot. What happens there is told to the slot
over them in the same step of plain code, so calls never choose a replica that is known to be gone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prism.supervision.balance import Balance, Replica
from prism.supervision.events import Journal
from prism.supervision.instance import Instance
from prism.supervision.slot import Slot


class SharedSlot(Slot):
    """Where calls find one of several replicas.

    ``current`` is any that serves, so that what asks "is there one, and what can it do?" need not
    know of the others. What is said while there is none is what its members say.
    ``on_lost`` is called when a member has lost its instance, or could not get one.
    """

    def __init__(self, namespace: str, balance: Balance, journal: Journal | None = None) -> None:
        super().__init__(namespace, journal)
        self.balance = balance
        self.members: list[ReplicaSlot] = []
        self.on_lost: Callable[[], None] = lambda: None

    @property
    def is_ready(self) -> bool:
        return any(instance.takes_calls for instance in self.instances())

    def instances(self) -> list[Instance]:
        return [slot.current for slot in self.members if slot.current is not None]

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def serving(self) -> int:
        return sum(
            slot.current is not None
            and slot.current.takes_calls
            and not (slot.replica is not None and slot.replica.ejected_until)
            for slot in self.members
        )

    def choose(self, avoid: Instance | None = None) -> Instance:
        canary = None if avoid is not None else self._next_canary()
        if canary is not None:
            return canary
        instance = self.balance.choose(avoid)
        if instance is None:
            raise self.unavailable()
        return instance

    def still_serves(self, instance: str) -> bool:
        present = self.instances()
        if self.canary is not None:
            present.append(self.canary)
        return any(each.id == instance and each.takes_calls for each in present)

    # -- what the members tell ------------------------------------------------------------

    def join(self, member: "ReplicaSlot", zone: str) -> None:
        """Give calls to ``member`` from now on, if it has an instance."""
        member.whole = self
        member.replica = self.balance.add(member.name, zone)
        self.members.append(member)
        if member.current is not None:
            self.filled(member, member.current)
        self.look()

    def leave(self, member: "ReplicaSlot") -> None:
        """``member`` is none any more."""
        if member in self.members:
            self.members.remove(member)
            if member.replica is not None:
                self.balance.clear(member.replica)
                self.balance.remove(member.replica)
            member.whole = member.replica = None
            self.look()

    def filled(self, member: "ReplicaSlot", instance: Instance) -> None:
        """``member`` has an instance, or another one than before."""
        if member.replica is not None:
            self.balance.fill(member.replica, instance)
        self.operations = instance.operations
        self.look()

    def cleared(self, member: "ReplicaSlot", instance: Instance) -> None:
        """``instance`` of ``member`` gets no more calls."""
        if self.canary is instance:
            self.canary = None
        if member.current is None and member.replica is not None:
            self.balance.clear(member.replica)
        self.look()

    def look(self) -> None:
        """A member has changed: find out what that makes of the whole."""
        was_there = self.current is not None
        present = self.instances()
        if self.current not in present:
            usable = [instance for instance in present if instance.takes_calls]
            self.current = next(iter(usable or present), None)
        if self.current is None:
            self._say_what_members_say()
        else:
            self.retry_at, self.held = None, False
        self._changed.unpark_all()
        if was_there is not (self.current is not None):
            self.on_change()

    def _say_what_members_say(self) -> None:
        if not self.members:
            return  # then it was said why there are none
        reasons = dict.fromkeys(slot.absence for slot in self.members)
        self.absence = "; ".join(reasons)
        self.expected = any(slot.expected for slot in self.members)
        self.held = any(slot.held for slot in self.members)
        self.output = next((slot.output for slot in self.members if slot.output), ())
        times = [slot.retry_at for slot in self.members if slot.retry_at is not None]
        soon = any(slot.expected and slot.retry_at is None for slot in self.members)
        self.retry_at = None if soon or not times else min(times)


class ReplicaSlot(Slot):
    """Where one replica's instance is. ``whole`` is the slot over it, once it has joined that."""

    def __init__(self, namespace: str, name: str, journal: Journal | None = None) -> None:
        super().__init__(namespace, journal)
        self.name = name
        self.whole: SharedSlot | None = None
        self.replica: Replica | None = None

    def fill(self, instance: Instance) -> Instance | None:
        previous = super().fill(instance)
        if self.whole is not None:
            self.whole.filled(self, instance)
        return previous

    def clear(self, instance: Instance, absence: str | None = None) -> None:
        super().clear(instance, absence)
        if self.whole is not None:
            self.whole.cleared(self, instance)

    def say_absent(
        self,
        absence: str,
        *,
        expected: bool = False,
        held: bool = False,
        retry_at: float | None = None,
        output: tuple[str, ...] = (),
    ) -> None:
        super().say_absent(absence, expected=expected, held=held, retry_at=retry_at, output=output)
        if self.whole is not None:
            self.whole.look()
            if self.current is None:
                self.whole.on_lost()

    @contextmanager
    def sharing(self, canary: Instance, share: float) -> Iterator[None]:
        """The share is of all calls, not of those of this replica."""
        if self.whole is None:
            yield
            return
        with self.whole.sharing(canary, share):
            yield
