"""A cluster: which of its servers is asked, and what happens when that changes.

Theory of operation. ``ClusterMap`` says which master has which slot; a call goes to the master
of its key's slot. What it is told there decides:

- ``MOVED``: another has the slot now. The map is corrected, and the call goes there.
- ``ASK``: the slot is being moved, and this key has been. The call goes there, this once.
- ``TRYAGAIN``, ``CLUSTERDOWN``, ``LOADING``: after a pause, the master is asked again.
- It cannot be reached: the call waits until the map was read anew, and goes to the slot's new
  master; where that is the same, it fails.

In all of these the server has done nothing, so that writes go on, too; ``MAX_TRIES`` bounds
them.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import anyio
from hiredis import ReplyError

from prism.sdk import PluginError, StatusCode
from prism.sdk.background import BackgroundTask
from prism.sdk.later import Later
from prism.sdk.multiplexed import Multiplexed, NotSent, QueueFull

from .cluster_map import ClusterMap, Node
from .cluster_scan import ClusterScan, Position
from .cluster_tries import MAX_TRIES, is_final, pause, says_again
from .config import RedisConfig
from .connection import HEALTH_SECONDS, Connection, Request
from .errors import code_of, translate
from .slots import ALL, Address, read_redirect, slot_of, write_mask
from .transport import Argument, Connector, RedisTransport, packed

log = logging.getLogger("prism.plugins.redis")

T = TypeVar("T")

ASKING = packed(["ASKING"])


class Cluster(Connection):
    """Like a connection to one server, for keys that lie on several."""

    def __init__(
        self, connector: Connector, config: RedisConfig, places: list[tuple[str, int]], *, tls: bool
    ) -> None:
        super().__init__(connector, config, "the cluster")
        addresses = [Address(*place) for place in places]
        self.map = ClusterMap(connector, self._share, addresses, tls=tls)
        self._scan = ClusterScan(self.map, self._try)
        self._own: set[RedisTransport] = set()
        self._following = 0
        """Calls without a task of their own that go on elsewhere."""
        self._closing = False

    @property
    def changed(self) -> anyio.Event:
        """See ``Connection``."""
        return self.map.changed

    async def start(self) -> None:
        """Read the map, and begin to connect to all masters. See ``Connection``."""
        await self.map.find()
        started = anyio.Event()
        self._task = BackgroundTask(partial(self._run, started), "the map of a cluster")
        await started.wait()

    async def _run(self, started: anyio.Event) -> None:
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._close_own)
            started.set()
            await self.map.keep(tasks)

    async def _close_own(self) -> None:
        """Nothing tells who waits on a server that the cluster has left behind."""
        while True:
            changed = self.map.changed
            for transport in list(self._own):
                if not self.map.knows(transport.server):
                    await transport.aclose()
            await changed.wait()

    async def aclose(self) -> None:
        """Close; calls that wait fail."""
        self._closing = True
        await self._task.aclose()
        await self.map.aclose()

    # -- commands -------------------------------------------------------------------

    async def exchange(self, request: Request) -> list[Any]:
        """See ``Connection``."""
        return await self._follow(request, None, None)

    async def exchange_each(self, requests: Sequence[Request]) -> list[list[Any] | PluginError]:
        """See ``Connection``; what is for one server goes there at once.

        What has to go on does so side by side: all wait for the same look at the map.
        """
        outcomes: list[Any] = [None] * len(requests)
        by_node: dict[Node | None, list[int]] = {}
        for place, request in enumerate(requests):
            by_node.setdefault(self.map.owners[slot_of(request.key)], []).append(place)

        async def ask(node: Node | None, places: list[int]) -> None:
            mine = [requests[place] for place in places]
            told: list[Any] | PluginError
            try:
                told = await self._try(node, _joined(mine))
            except PluginError as error:
                told = error
            for place, request in zip(places, mine, strict=True):
                part = told
                if isinstance(told, list):
                    part, told = told[: request.wanted], told[request.wanted :]
                if is_final(part):
                    outcomes[place] = part
                else:
                    tasks.start_soon(follow, place, part)

        async def follow(place: int, told: Any) -> None:
            try:
                outcomes[place] = await self._follow(requests[place], told, None)
            except PluginError as error:
                outcomes[place] = error

        async with anyio.create_task_group() as tasks:
            for node, places in by_node.items():
                tasks.start_soon(ask, node, places)
        return outcomes

    def later(
        self, make: Callable[[Any], T], *command: Argument, repeatable: bool = False
    ) -> Later[T]:
        """See ``Connection``; only a call that has to go on elsewhere has a task."""
        key = command[1]
        assert isinstance(key, bytes)  # noqa: S101 - keys are, in the plugin
        request = Request(key, packed(command), 1, repeatable)
        node = self.map.owners[slot_of(key)]

        def divert(call: Later[Any], answer: Any, error: BaseException | None) -> bool:
            final = is_final(answer if error is None else error)
            if final or call.abandoned or self._closing or self._is_full():
                return False
            self._go_on(call, request, error or answer)
            return True

        if node is not None and not node.shared.problem:
            data = request.data
            return node.shared.later(
                data,
                make,
                len(data),
                repeatable=repeatable,
                check=self.checked,
                divert=divert,
            )
        if self._is_full():
            raise QueueFull(
                f"{self._following} calls wait for servers of the cluster; the limit is that "
                "(max_in_flight, for each master)"
            )
        call: Later[T] = Later(lambda replies: make(self.checked(replies[0])))
        self._go_on(call, request, None)
        return call

    def _is_full(self) -> bool:
        """Whether as many calls go on elsewhere as all servers together take."""
        return self._following >= self._config.max_in_flight * len(self.map.masters)

    def _go_on(self, call: Later[Any], request: Request, told: Any) -> None:
        self._following += 1
        self._tasks.start_soon(self._settle, call, request, told)

    async def _settle(self, call: Later[Any], request: Request, told: Any) -> None:
        answer: Any = None
        error: Exception | None = NotSent(f"{self.name} is closed")
        try:
            answer, error = await self._follow(request, told, call), None
        except PluginError as problem:
            error = problem
        except Exception:
            log.exception("a call to the cluster failed")
            error = PluginError(StatusCode.INTERNAL, "the call failed; the log has the cause")
        finally:
            self._following -= 1
            call.settle(answer, error)

    async def _follow(self, request: Request, told: Any, call: Later[Any] | None) -> list[Any]:
        """The replies to a request, from wherever they are to be had.

        ``told``: what the first try was answered, if there was one. ``call``: who waits for it,
        if that is no task.

        Raises:
            PluginError: they are not to be had.
        """
        node = self.map.owners[slot_of(request.key)]
        if told is None:
            told = await self._try(node, request)
        for tries in range(MAX_TRIES - 1):
            if is_final(told):
                break
            node, asking = await self._where_now(request, node, told, tries)
            if call is not None and call.abandoned:
                return []
            told = await self._try(node, request, asking=asking)
        if isinstance(told, PluginError):
            raise told
        replies: list[Any] = told
        return replies

    async def _try(
        self, node: Node | None, request: Request, *, asking: bool = False
    ) -> list[Any] | NotSent:
        """What a server answers; a server that cannot be reached is an answer, too."""
        if node is None:
            return NotSent("no server of the cluster has the key's slot")
        _, data, wanted, repeatable = request
        if asking:
            data, wanted = ASKING + data, wanted + 1
        try:
            told = await node.shared.call_many(data, wanted, len(data), repeatable=repeatable)
        except NotSent as error:
            return error
        return told[1:] if asking else told

    async def _where_now(
        self, request: Request, node: Node | None, told: Any, tries: int
    ) -> tuple[Node | None, bool]:
        """The server to ask next, and whether as one that is only about to have the slot.

        Raises:
            PluginError: there is none.
        """
        slot = slot_of(request.key)
        if isinstance(told, NotSent):
            await self.map.read()
            owner = self.map.owners[slot]
            if owner is None or owner.shared.problem:
                raise told
            return owner, False
        error = next(reply for reply in told if says_again(reply))
        code = code_of(error)
        if code in ("MOVED", "ASK") and node is not None:
            if code == "MOVED":
                self.map.want()
            if tries > 1:  # they do not agree
                await pause(tries)
            address = read_redirect(str(error), node.server.host)
            if address is not None:
                moved = code == "MOVED"
                return self.map.name(address, slot if moved else None), not moved
        if code == "TRYAGAIN" and request.repeatable:
            raise _OnTwoServers(StatusCode.UNAVAILABLE, self.translate(error).detail)
        await pause(tries)
        if code == "CLUSTERDOWN":
            await self.map.read()
        return self.map.owners[slot], False

    def translate(self, error: ReplyError, *, of_client: bool = False) -> PluginError:
        """See ``Connection``."""
        return translate(error, of_client=of_client, of_cluster=True)

    # -- keys -----------------------------------------------------------------------

    def by_slot(self, keys: Sequence[bytes]) -> list[list[int]]:
        """See ``Connection``: those of one slot can."""
        groups: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            groups.setdefault(slot_of(key), []).append(place)
        return list(groups.values())

    def apart(self, keys: Sequence[bytes]) -> list[list[int]]:
        """See ``Connection``: one by one, so that all are done where a slot is being moved."""
        return [[place] for place in range(len(keys))]

    def check_together(self, keys: Sequence[bytes]) -> None:
        """See ``Connection``."""
        for key in keys[1:]:
            if slot_of(key) != slot_of(keys[0]):
                one, other = (name.decode(errors="replace")[:100] for name in (keys[0], key))
                raise PluginError(
                    StatusCode.INVALID_ARGUMENT,
                    f"the keys {one!r} and {other!r} lie in different slots of the cluster, and "
                    "what runs together needs one; those with the same text in braces lie in "
                    "one, as {tag}a and {tag}b do",
                )

    async def values_within(self, names: Sequence[bytes], most: int) -> list[bytes | None]:
        """See ``Connection``. Of several slots, and of one that is being moved, which may take
        hours, it first asks for the sizes: between that and the values they may change."""
        if len(self.by_slot(names)) == 1:
            with suppress(_OnTwoServers):
                return await super().values_within(names, most)
        sizes = await self._read_each("STRLEN", names)
        total = within = 0
        for name, size in zip(names, sizes, strict=True):
            total += len(name) + (size or 0)
            if total > most and within:
                break
            within += 1
        return await self._read_each("GET", names[:within])

    async def _read_each(self, command: str, names: Sequence[bytes]) -> list[Any]:
        """The replies to a command for each key; None for a key of another kind."""
        requests = [
            Request(name, packed([command, name]), repeatable=True) for name in dict.fromkeys(names)
        ]
        found = {}
        for request, outcome in zip(requests, await self.exchange_each(requests), strict=True):
            if isinstance(outcome, PluginError):
                raise outcome
            reply = outcome[0]
            if type(reply) is ReplyError:
                if code_of(reply) != "WRONGTYPE":
                    raise self.translate(reply)
                reply = None
            found[request.key] = reply
        return [found[name] for name in names]

    def is_position(self, at: bytes) -> bool:
        """See ``Connection``."""
        try:
            Position.read(at)
        except ValueError:
            return False
        return True

    async def scan_step(self, at: bytes, pattern: bytes, count: int) -> tuple[bytes, list[bytes]]:
        """See ``Connection``, and ``ClusterScan``."""
        return await self._scan.step(at, pattern, count)

    # -- connections of their own -----------------------------------------------------

    @asynccontextmanager
    async def own(self, key: bytes) -> AsyncIterator[RedisTransport]:
        """See ``Connection``."""
        async with self._owned(partial(self._open_at, key)) as transport:
            self._own.add(transport)
            try:
                yield transport
            finally:
                self._own.discard(transport)

    @asynccontextmanager
    async def own_each(self) -> AsyncIterator[list[RedisTransport]]:
        """See ``Connection``: of each master."""
        async with AsyncExitStack() as stack:
            transports = []
            for node, _ in list(self.map.masters.values()):
                connect = partial(self._connector.connect_to, node.server)
                own = self._owned(partial(self._open_own, connect))
                transports.append(await stack.enter_async_context(own))
            yield transports

    async def _open_at(self, key: bytes) -> RedisTransport:
        slot = slot_of(key)
        node = self.map.owners[slot]
        if node is None or node.shared.problem:
            await self.map.read()
            node = self.map.owners[slot]
        if node is None:
            raise NotSent("no server of the cluster has the key's slot")
        return await self._open_own(partial(self._connector.connect_to, node.server))

    # -- what happened ----------------------------------------------------------------

    async def problem(self) -> str:
        """See ``Connection``: each master is asked whether the cluster works."""
        problems: list[str] = []

        async def ask(node: Node) -> None:
            where = f"the server {node.server}"
            try:
                with anyio.fail_after(HEALTH_SECONDS):
                    known = await node.ask_map()
            except TimeoutError:
                problems.append(f"{where} did not answer within {HEALTH_SECONDS:g} seconds")
            except (PluginError, ValueError) as error:
                problems.append(error.detail if isinstance(error, PluginError) else str(error))
            else:
                if not known.works:
                    problems.append(f"the cluster does not work for {where}: cluster_state:fail")

        async with anyio.create_task_group() as tasks:
            for node, _ in self.map.masters.values():
                tasks.start_soon(ask, node)
        missing = ALL
        for _, slots in self.map.masters.values():
            missing &= ~slots
        if missing:
            problems.append(f"no server has the slots {write_mask(missing)[:200]}")
        if problems:
            self.map.want()
        return "; ".join(sorted(problems))

    def connections(self) -> list[Multiplexed[bytes, Any]]:
        """See ``Connection``."""
        return [node.shared for node in self.map.nodes.values()]

    @property
    def calls(self) -> int:
        """See ``Connection``."""
        return self.map.past_calls + super().calls

    @property
    def connects(self) -> int:
        """See ``Connection``."""
        return self.map.past_connects + super().connects


class _OnTwoServers(PluginError):
    """The keys of a read are in one slot and yet on two servers, as the slot is being moved. Each
    can be read for itself."""


def _joined(requests: Sequence[Request]) -> Request:
    if len(requests) == 1:
        return requests[0]
    return Request(
        requests[0].key,
        b"".join(request.data for request in requests),
        sum(request.wanted for request in requests),
        all(request.repeatable for request in requests),
    )
