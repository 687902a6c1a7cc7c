"""The map of a cluster, its servers, and the connection to each.

One task alone reads the map: now and then, at once where somebody wants it anew, and often while
a master cannot be reached or the cluster does not work. It is believed to a server for which the
cluster works, if it is no older than what is known, or of a cluster that was made anew. A server
that no longer is a master keeps its connection until what it owes is answered.
"""

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import anyio
from hiredis import ReplyError

from prism.sdk import PluginError, StatusCode
from prism.sdk.multiplexed import Multiplexed, State, TransportBroken

from .config import Server
from .connection import LOST, reason
from .errors import translate
from .slots import SLOTS, Address, Range, mask_of, read_slots
from .transport import Connector, RedisTransport, packed

log = logging.getLogger("prism.plugins.redis")

MAP_SECONDS = 10.0
"""Between looks at the map while all is well."""
SEARCH_SECONDS = 0.5
"""The same while a master cannot be reached."""
MIN_MAP_SECONDS = 0.1
"""Between looks at the map in any case."""
ASK_SECONDS = 2.0
"""For one server to say what it knows of the map."""
KEEP_SECONDS = 30.0
"""A server outside of the map that a redirection named is connected to for so long."""
ASK_MAP = (("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))

Share = Callable[[Callable[[], Awaitable[RedisTransport]], str], Multiplexed[bytes, Any]]


class Node:
    """One server, and the connection to it that calls share."""

    def __init__(self, server: Server, shared: Multiplexed[bytes, Any]) -> None:
        self.server = server
        self.shared = shared
        self.named_at = -KEEP_SECONDS
        """When a redirection named it last."""
        self.slow = False
        """It did not say in time what it knows of the map."""

    async def ask_map(self) -> "Known":
        """What it knows, through the connection that calls use.

        Raises:
            PluginError: it does not say it.
            ValueError: it says something else.
        """
        self.slow = True
        data = b"".join(map(packed, ASK_MAP))
        told = await self.shared.call_many(data, len(ASK_MAP), len(data), repeatable=True)
        self.slow = False
        for reply in told:
            if type(reply) is ReplyError:
                raise translate(reply, of_cluster=True)
        return Known.read(told, self.server.host)


class Known(NamedTuple):
    """What one server knows: the map, how new that is, and whether the cluster works for it."""

    ranges: list[Range]
    epoch: int
    works: bool

    @classmethod
    def read(cls, told: Sequence[Any], asked: str) -> "Known":
        """The answers to ``ASK_MAP``. Raises ValueError."""
        try:
            lines = told[0].decode().splitlines()
        except AttributeError as error:
            raise ValueError("CLUSTER INFO is no text") from error
        info = dict(line.partition(":")[::2] for line in lines)
        works = info.get("cluster_state") == "ok"
        return cls(read_slots(told[1], asked), int(info.get("cluster_current_epoch", 0)), works)


class ClusterMap:
    """Which master has which slot, and the connections to all of them.

    ``places``: servers to ask before any is known. ``share``: makes a connection for calls.
    """

    def __init__(
        self, connector: Connector, share: Share, places: Sequence[Address], *, tls: bool
    ) -> None:
        self.nodes: dict[Address, Node] = {}
        self.owners: list[Node | None] = [None] * SLOTS
        """By slot."""
        self.masters: dict[str, tuple[Node, int]] = {}
        """By id, with a set of their slots."""
        self.replicas: frozenset[Address] = frozenset()
        self.changed = anyio.Event()
        """Set, and replaced, when there are other masters than before."""
        self.past_calls = self.past_connects = 0
        """Of servers that are left."""
        self._connector = connector
        self._share = share
        self._places = places
        self._tls = tls
        self._epoch = 0
        self._works = True
        self._wanted = anyio.Event()
        self._was_read = anyio.Event()
        self._tasks: anyio.abc.TaskGroup | None = None

    async def find(self) -> None:
        """Read it for the first time.

        Raises:
            PluginError: all that can be reached refuse.
            TransportBroken: none can be reached.
        """
        known, problems = await self._ask_servers()
        if known is None:
            refused = [error for error in problems.values() if isinstance(error, PluginError)]
            if refused:
                raise refused[0]
            told = "; ".join(f"{where}: {reason(error)}" for where, error in problems.items())
            raise TransportBroken(told)
        if not known.ranges:
            raise PluginError(
                StatusCode.FAILED_PRECONDITION,
                "config.cluster: no server has any slots yet; redis-cli --cluster create gives "
                "them some",
            )
        self._adopt(known)

    async def keep(self, tasks: anyio.abc.TaskGroup) -> None:
        """Keep it as it is in the cluster, without an end."""
        self._tasks = tasks
        while True:
            with anyio.move_on_after(SEARCH_SECONDS if self._searching() else MAP_SECONDS):
                await self._wanted.wait()
            self._wanted = anyio.Event()
            known, problems = await self._ask_servers()
            if known is not None and self._is_newer(known, problems):
                self._adopt(known)
            elif known is None and self._works:
                self._works = False
                told = "; ".join(f"{where}: {reason(error)}" for where, error in problems.items())
                log.warning("no server of the cluster tells its map: %s", told)
            was_read, self._was_read = self._was_read, anyio.Event()
            was_read.set()
            await anyio.sleep(MIN_MAP_SECONDS)

    def want(self) -> None:
        """Have it read anew, soon."""
        self._wanted.set()

    async def read(self) -> None:
        """Wait until it was read anew; however many wait, it is read once."""
        was_read = self._was_read
        self._wanted.set()
        await was_read.wait()

    def name(self, address: Address, slot: int | None = None) -> Node:
        """The server that a redirection names; with ``slot``, as its master from now on."""
        node = self._node(address)
        node.named_at = anyio.current_time()
        if slot is not None:
            self.owners[slot] = node
        return node

    def knows(self, server: Server) -> bool:
        """Whether it is in the cluster, as far as is known."""
        address = Address(server.host, server.port)
        return address in self.nodes or address in self.replicas

    async def aclose(self) -> None:
        """Close all connections."""
        for node in list(self.nodes.values()):
            await node.shared.aclose()

    def _is_newer(self, known: Known, problems: dict[str, Exception]) -> bool:
        """Whether this map is no older than what is known, or of a cluster that was made anew of
        the same servers: its epochs begin at 0 again, and all servers, none left out, have other
        names than before."""
        if known.epoch >= self._epoch:
            return True
        names = {one.identity for one in known.ranges}
        return known.works and not problems and self.masters.keys().isdisjoint(names)

    def _searching(self) -> bool:
        return not self._works or any(node.shared.problem for node, _ in self.masters.values())

    async def _ask_servers(self) -> tuple[Known | None, dict[str, Exception]]:
        """What the first server knows for which the cluster works; else the newest of what is
        known; and why others did not say it."""
        best: Known | None = None
        problems: dict[str, Exception] = {}
        for where, ask in self._sources().items():
            try:
                with anyio.fail_after(ASK_SECONDS):
                    known = await ask()
            except TimeoutError:
                problems[where] = TransportBroken("it did not answer in time")
                continue
            except (PluginError, *LOST) as error:
                problems[where] = error
                continue
            except ValueError as error:
                problems[where] = TransportBroken(f"its map cannot be read: {error}")
                continue
            if best is None or (known.works, known.epoch) > (best.works, best.epoch):
                best = known
            if known.works and known.epoch >= self._epoch:
                break
        return best, problems

    def _sources(self) -> dict[str, Callable[[], Awaitable[Known]]]:
        """Whom to ask, in this order: the servers that are connected, but last those that were
        slow; then all others, on new connections."""
        nodes = [node for node in self.nodes.values() if node.shared.state is State.CONNECTED]
        random.shuffle(nodes)
        nodes.sort(key=lambda node: node.slow)
        sources: dict[str, Callable[[], Awaitable[Known]]] = {
            str(node.server): node.ask_map for node in nodes
        }
        for address in (*self._places, *self.replicas):
            server = self._server(address)
            sources.setdefault(str(server), partial(self._ask, server))
        return sources

    async def _ask(self, server: Server) -> Known:
        transport = await self._connector.connect_to(server)
        try:
            return Known.read(await transport.ask(*ASK_MAP), server.host)
        finally:
            with anyio.move_on_after(1, shield=True):
                await transport.aclose()

    def _adopt(self, known: Known) -> None:
        """Have calls go where this map says."""
        self._epoch, self._works = known.epoch, known.works
        masters: dict[str, tuple[Node, int]] = {}
        self.owners = [None] * SLOTS
        for first, last, address, identity, _ in known.ranges:
            node = self._node(address)
            _, slots = masters.get(identity, (node, 0))
            masters[identity] = node, slots | mask_of([(first, last)])
            self.owners[first : last + 1] = [node] * (last - first + 1)
        self.replicas = frozenset(place for one in known.ranges for place in one.replicas)
        before, self.masters = self.masters, masters
        if masters.keys() != before.keys():
            names = ", ".join(str(node.server) for node, _ in masters.values())
            log.info("the masters of the cluster: %s", names)
            changed, self.changed = self.changed, anyio.Event()
            changed.set()
        if self._tasks is not None:
            self._leave_others(self._tasks)

    def _leave_others(self, tasks: anyio.abc.TaskGroup) -> None:
        masters = {node for node, _ in self.masters.values()}
        now = anyio.current_time()
        for address, node in list(self.nodes.items()):
            if node not in masters and now - node.named_at > KEEP_SECONDS:
                del self.nodes[address]
                self.past_calls += node.shared.calls
                self.past_connects += node.shared.connects
                tasks.start_soon(self._retire, node)

    async def _retire(self, node: Node) -> None:
        """Close the connection once it owes nothing, or does not pay."""
        shared = node.shared
        try:
            with anyio.move_on_after(shared.limits.silence):
                while shared.in_flight and not shared.problem:  # noqa: ASYNC110 - it has no event
                    await anyio.sleep(MIN_MAP_SECONDS)
        finally:  # it is in nobody else's hands any more
            with anyio.CancelScope(shield=True):
                await shared.aclose()

    def _node(self, address: Address) -> Node:
        node = self.nodes.get(address)
        if node is None:
            server = self._server(address)
            shared = self._share(
                partial(self._connector.connect_to, server), f"the server {server}"
            )
            node = self.nodes[address] = Node(server, shared)
            shared.begin()
        return node

    def _server(self, address: Address) -> Server:
        return Server(address.host, address.port, tls=self._tls)
