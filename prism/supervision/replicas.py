"""Keeps a plugin of which there are several: processes, or endpoints.

Theory of operation. A replica is an ordinary keeper with an ordinary slot, so that everything that
holds for one plugin holds for each: backoff, health, output, events. Over them are one slot for
the calls (``replica_slot``), and what there is of one namespace: its operation, its journal.

Replicas have names: a process its number, an endpoint its address. Two lists of names say what
changes: who is in both stays as it is, or is replaced on purpose (``roll``); each other one comes
or goes without touching the others. One that goes is drained.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

import msgspec
import trio

from prism.config.plugin_types import BalanceConfig, PluginConfig
from prism.contract.errors import OperationInProgress
from prism.streams.addresses import WebSocketURL, bracketed
from prism.streams.errors import LaunchError, innermost
from prism.streams.outlet import turn_time
from prism.supervision.balance import Balance, Happening, Replica
from prism.supervision.events import Journal
from prism.supervision.generation import Generation
from prism.supervision.instance import InstanceSpec
from prism.supervision.keeper import STOPPING, Keeper, Operated
from prism.supervision.replica_slot import ReplicaSlot, SharedSlot

log = logging.getLogger("prism.supervision")

MAX_ADDRESSES = 256
"""Of one name: what is more is a mistake, or an attack."""
LEAST_PAUSE = 1.0
"""Seconds between two look-ups, at least."""
HEAD_START = 1.0
"""Seconds that the others have, once one replica serves, until the start counts as done: one that
hangs must not keep the proxy from serving."""


def replica_specs(spec: InstanceSpec, addresses: Iterable[str] = ()) -> dict[str, InstanceSpec]:
    """The spec of each replica that ``spec`` names, by the replica's name. ``addresses`` are those
    of its endpoint's host, where each is one."""
    # What is said of all together is not for one: a change of it must not replace that.
    plugin = msgspec.structs.replace(
        spec.plugin, processes=1, resolve="first", resolve_seconds=30.0, balance=BalanceConfig()
    )
    if spec.plugin.resolve == "all":
        _, port = host_and_port(spec.plugin)
        names = {f"{bracketed(address)}:{port}": address for address in addresses}
        return {
            name: replace(spec, plugin=plugin, replica=name, zone="", address=address)
            for name, address in names.items()
        }
    if spec.plugin.endpoint is not None:
        specs = {}
        for endpoint in spec.plugin.endpoints:
            one = msgspec.structs.replace(plugin, endpoint=endpoint.address)
            host, port = host_and_port(one)
            name = f"{bracketed(host)}:{port}"
            specs[name] = replace(spec, plugin=one, replica=name, zone=endpoint.zone)
        return specs
    names = {str(number): "" for number in range(1, spec.plugin.processes + 1)}
    return {name: replace(spec, plugin=plugin, replica=name, zone="") for name in names}


def host_and_port(plugin: PluginConfig) -> tuple[str, int]:
    """Where the first endpoint of ``plugin`` is."""
    if plugin.type == "websocket":
        url = WebSocketURL.parse(plugin.websocket_url)
        return url.host, url.port
    return plugin.address


async def look_up(host: str, port: int) -> list[str]:
    """The addresses that DNS has for ``host``, sorted. Cancelling leaves nothing behind.

    Raises:
        LaunchError: it has none, or cannot be asked.
    """
    try:
        found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or innermost(error)
        raise LaunchError(f"no address of {host} is known: {why}") from None
    addresses = sorted({str(entry[4][0]) for entry in found})
    if len(addresses) > MAX_ADDRESSES:
        log.warning("%s has %d addresses; %d are used", host, len(addresses), MAX_ADDRESSES)
    if not addresses:
        raise LaunchError(f"no address of {host} is known")
    return addresses[:MAX_ADDRESSES]


class Replicas(Operated):
    """Runs the replicas of one namespace's plugin; in the place of a ``Keeper``.

    ``members`` are those that are wanted, by name, ``coming`` those that are tried and may become
    members, ``leaving`` those that are being drained. ``is_incomplete``: not all of them are as the
    configuration says, since its change was stopped by a replica that failed.
    """

    def __init__(self, spec: InstanceSpec, journal: Journal | None = None) -> None:
        super().__init__(spec)
        self.journal = journal or Journal(spec.namespace)
        self.balance = Balance(
            spec.plugin.balance, spec.zone, now=turn_time, on_event=self._note_event
        )
        self.slot = SharedSlot(spec.namespace, self.balance, self.journal)
        self.members: dict[str, Keeper] = {}
        self.coming: list[Keeper] = []
        self.leaving: list[Keeper] = []
        self.is_incomplete = False
        self.made = self.journal.events.clock()
        self._addresses: dict[str, list[str]] = {}
        self._cannot_look_up = ""
        self._look_up_asked = trio.Event()
        self._following = trio.CancelScope()
        self.slot.on_lost = self._ask_for_look_up
        self._stop = trio.Event()
        self._stopped = trio.Event()
        for wanted in replica_specs(spec).values():
            self.join(self.make_member(wanted))

    # -- its life -----------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the replicas running until ``stop``. A plugin's failure is never raised.

        Started once each has had its first attempt, or some serve and the others have had some
        time. Cancelling ends them.
        """
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._follow_addresses)
                for member in self.members.values():
                    self._nursery.start_soon(member.run)
                if self._resolves:
                    with trio.move_on_after(self.spec.plugin.start_timeout_seconds):
                        await self._look_up()
                await self.wait_attempted(self.members.values())
                task_status.started()
                await self._stop.wait()
                self._following.cancel()
        finally:
            self._nursery = None
            self._stopped.set()

    async def wait_attempted(self, members: Iterable[Keeper]) -> None:
        """Wait until ``members`` have had their first attempt; once one of them serves, not for
        long."""

        async def watch(member: Keeper) -> None:
            await member.wait_attempted()
            if member.slot.is_ready:
                within = trio.current_time() + HEAD_START
                scope.deadline = min(scope.deadline, within)

        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            for member in members:
                nursery.start_soon(watch, member)

    def stop(self, reason: str = STOPPING) -> None:
        """Let the replicas finish their calls and end; start no other."""
        self.stopping = True
        self._stop.set()
        for member in self.keepers():
            member.stop(reason)

    async def wait_stopped(self) -> None:
        """Wait until ``run`` has ended, and with it all that it started."""
        await self._stopped.wait()

    # -- who belongs to it --------------------------------------------------------------

    def make_member(self, spec: InstanceSpec) -> Keeper:
        """A replica that does not run yet, and has no part in the calls."""
        return Keeper(spec, ReplicaSlot(spec.namespace, spec.replica, self.journal), self.journal)

    def join(self, member: Keeper) -> None:
        """``member`` belongs to it from now on, and gets calls as soon as it serves."""
        self.members[member.spec.replica] = member
        if member in self.coming:
            self.coming.remove(member)
        assert isinstance(member.slot, ReplicaSlot)  # noqa: S101 - made above
        self.slot.join(member.slot, member.spec.zone)

    def begin(self, member: Keeper) -> None:
        """Run a replica that has yet to join, or is to be stopped.

        Raises:
            LaunchError: the keeper stops.
        """
        if self._nursery is None or self.stopping:
            raise LaunchError(STOPPING)
        self.coming.append(member)
        self._nursery.start_soon(self._try_out, member)

    async def _try_out(self, member: Keeper) -> None:
        try:
            await member.run()
        finally:
            if member in self.coming:
                self.coming.remove(member)

    def dismiss(self, member: Keeper, reason: str) -> None:
        """Give ``member`` no more calls, let it finish those that it has, and end."""
        assert isinstance(member.slot, ReplicaSlot)  # noqa: S101 - made above
        if self.members.get(member.spec.replica) is member:
            del self.members[member.spec.replica]
        self.leaving.append(member)
        self.slot.leave(member.slot)
        member.stop(reason)
        if self._nursery is not None:
            self._nursery.start_soon(self._forget, member)

    async def _forget(self, member: Keeper) -> None:
        await member.wait_stopped()
        self.leaving.remove(member)

    def keepers(self) -> list[Keeper]:
        """Those of all replicas, also of such as come and go."""
        return [*self.members.values(), *self.coming, *self.leaving]

    # -- who is in the DNS ---------------------------------------------------------------

    @property
    def _resolves(self) -> bool:
        return self.spec.plugin.resolve == "all"

    def _ask_for_look_up(self) -> None:
        self._look_up_asked.set()

    async def _follow_addresses(self) -> None:
        """Look the addresses up again and again; at once, but not too often, where one is lost."""
        with self._following:
            while True:
                if self._resolves:
                    seconds = self.spec.plugin.resolve_seconds
                    pause = min(seconds, LEAST_PAUSE) if self._cannot_look_up else seconds
                    with trio.move_on_after(pause):
                        await self._look_up_asked.wait()
                else:
                    await self._look_up_asked.wait()
                await trio.sleep(LEAST_PAUSE)
                self._look_up_asked = trio.Event()
                if self._resolves and self.operation is None:
                    await self._look_up()

    async def _look_up(self) -> None:
        """Look the addresses up, and follow them. Where that fails, those that are known stay."""
        endpoint = self.spec.plugin.endpoint_text
        try:
            addresses = await look_up(*host_and_port(self.spec.plugin))
        except LaunchError as error:
            if str(error) != self._cannot_look_up:
                kept = "; those that are known stay" if self.members else ""
                log.warning("namespace %s: %s%s", self.spec.namespace, error, kept)
            self._cannot_look_up = str(error)
            if not self.members:
                self.slot.say_absent(str(error), retry_at=trio.current_time() + LEAST_PAUSE)
            return
        self._cannot_look_up = ""
        # An operation decides on the replicas, and may have begun meanwhile.
        if self.stopping or self.operation is not None:
            return
        if endpoint != self.spec.plugin.endpoint_text:
            return
        self._addresses[endpoint] = addresses
        drained = self.slot.absence if self.members and self.paused else ""
        wanted = self.wanted(self.spec)
        another_serves = any(
            name in wanted and member.current is not None for name, member in self.members.items()
        )
        for name, member in list(self.members.items()):
            if name in wanted:
                continue
            if member.current is not None and not another_serves:
                self._ask_for_look_up()  # all are new: what serves goes once one of them does
                continue
            self.journal.step("replica", "", f"{name} leaves: it is not in the DNS any more")
            self.dismiss(member, "it is not in the DNS any more")
        for name, spec in wanted.items():
            if name not in self.members:
                self.journal.step("replica", "", f"{name} joins: it is in the DNS")
                member = self.make_member(spec)
                if drained:
                    member.pause(drained)
                self.begin(member)
                self.join(member)

    # -- as of one keeper ---------------------------------------------------------------

    @property
    def current(self) -> Generation | None:
        """One that serves, if any does: the one that the slot shows."""
        shown = self.slot.current
        serving = self.serving
        return next((each for each in serving if each.instance is shown), None)

    @property
    def newest(self) -> Generation | None:
        """The last begun of the first replica."""
        return next((member.newest for member in self.members.values()), None)

    @property
    def generations(self) -> list[Generation]:
        """All that are not over."""
        return [each for member in self.keepers() for each in member.generations]

    @property
    def serving(self) -> list[Generation]:
        """What serves now."""
        return [each for member in self.members.values() for each in member.serving]

    @property
    def last_failure(self) -> LaunchError | None:
        """The failure of a replica that does not serve, or else any."""
        members = sorted(self.members.values(), key=lambda member: member.current is not None)
        return next((each.last_failure for each in members if each.last_failure), None)

    @property
    def paused(self) -> bool:
        """Are no attempts made, of any?"""
        return all(member.paused for member in self.members.values())

    @property
    def tried(self) -> Mapping[str, str] | None:
        """The credentials of a last attempt that failed, if it had any."""
        return next((member.tried for member in self.members.values() if member.tried), None)

    def runs(self, spec: InstanceSpec) -> bool:
        """Is ``spec`` what is wanted, and was all done for it?

        What an operator's reload has left half-way stays as it is.
        """
        return self.spec == spec and not self.is_incomplete

    def wanted(self, spec: InstanceSpec) -> dict[str, InstanceSpec]:
        """The spec of each replica that ``spec`` asks for, as far as addresses are known."""
        return replica_specs(spec, self._addresses.get(spec.plugin.endpoint_text, ()))

    async def find(self, spec: InstanceSpec) -> dict[str, InstanceSpec]:
        """The spec of each replica that ``spec`` asks for.

        Raises:
            LaunchError: the addresses are not known.
        """
        endpoint = spec.plugin.endpoint_text
        if spec.plugin.resolve == "all" and endpoint not in self._addresses:
            self._addresses[endpoint] = await look_up(*host_and_port(spec.plugin))
        return self.wanted(spec)

    def adopt(self, spec: InstanceSpec) -> None:
        """Take the catalogue and the policy of ``spec`` for what is started from now on."""
        self.spec = replace(self.spec, at_version=spec.at_version, verification=spec.verification)
        for member in self.members.values():
            member.adopt(spec)

    def take_over(self, spec: InstanceSpec) -> None:
        """From now on ``spec`` is what is wanted; its replicas are seen to elsewhere."""
        self.spec = spec
        for name, one in self.wanted(spec).items():
            if name in self.balance.replicas:
                self.balance.replicas[name].zone = one.zone
        self.balance.configure(spec.plugin.balance)
        kept = self._addresses.get(spec.plugin.endpoint_text)
        self._addresses = {spec.plugin.endpoint_text: kept} if kept else {}
        self._ask_for_look_up()

    def forgive(self) -> None:
        """Forget past failures."""
        for member in self.members.values():
            member.forgive()

    def reset(self) -> None:
        """Forget past failures; the replicas that have no instance try now.

        Raises:
            OperationInProgress: another operation decides on that.
        """
        if self.operation is not None:
            raise OperationInProgress(self.spec.namespace, self.operation)
        for member in self.members.values():
            member.reset()

    def try_now(self) -> None:
        """Make the attempts now that were to come after a pause."""
        for member in self.members.values():
            member.try_now()

    def _note_event(self, replica: Replica, what: Happening, why: str) -> None:
        instance = replica.instance
        self.journal.step("replica", instance.id if instance else "", f"{what}: {why}")


AnyKeeper = Keeper | Replicas
"""What the supervision has of one namespace."""
