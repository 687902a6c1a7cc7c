"""A scan of all keys of a cluster, which goes on though slots move and masters are replaced.

One master after the other is looked through, as long as there are slots of which no master has
been to its end while it had them.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from hiredis import ReplyError

from prism.sdk import PluginError, StatusCode
from prism.sdk.multiplexed import NotSent

from .cluster_map import ClusterMap, Node
from .cluster_tries import MAX_TRIES, is_final, pause
from .connection import Request, scan_command
from .errors import translate
from .slots import ALL, mask_of, read_mask, write_mask
from .transport import packed

Ask = Callable[[Node, Request], Awaitable[list[Any] | NotSent]]


class Position(NamedTuple):
    """Where a scan goes on: at ``at`` of this master, which had the slots ``began`` when its turn
    began; ``done`` are those that need no more looking."""

    done: int
    master: str
    began: int
    at: bytes

    def write(self) -> bytes:
        """As text, for a cursor."""
        return b"%s;%s;%s;%s" % (
            write_mask(self.done).encode(),
            self.master.encode(),
            write_mask(self.began).encode(),
            self.at,
        )

    @classmethod
    def read(cls, text: bytes) -> "Position":
        """What ``write`` has written.

        Raises:
            ValueError: it has not.
        """
        done, master, began, at = text.decode("ascii").split(";")
        if not (at.isdigit() and len(at) <= 20 and len(master) <= 40):
            raise ValueError(text)
        position = cls(read_mask(done), master, read_mask(began), at.encode())
        if position.done == ALL:  # a scan that is at its end has no position
            raise ValueError(text)
        return position


class ClusterScan:
    """Scans by way of a map; ``ask`` sends a request to a server."""

    def __init__(self, cluster_map: ClusterMap, ask: Ask) -> None:
        self._map = cluster_map
        self._ask = ask

    async def step(self, at: bytes, pattern: bytes, count: int) -> tuple[bytes, list[bytes]]:
        """See ``Connection.scan_step``.

        Raises:
            PluginError: no server can be asked for slots that were not looked through.
        """
        position = Position.read(at) if at else Position(0, "", 0, b"0")
        for tries in range(MAX_TRIES):
            if position.master not in self._map.masters:  # at first, or where it is none any more
                position = self._next_master(position.done)
            node, _ = self._map.masters[position.master]
            data = packed(scan_command(position.at, pattern, count))
            told = await self._ask(node, Request(b"", data, repeatable=True))
            if isinstance(told, NotSent) or not is_final(told):
                await pause(tries)
                await self._map.read()
                if isinstance(told, NotSent) and position.master in self._map.masters:
                    raise told
                continue
            if type(told[0]) is ReplyError:
                raise translate(told[0], of_cluster=True)
            at, found = told[0]
            if at != b"0":
                return position._replace(at=at).write(), found
            done = position.done | await self._kept(node, position)
            return b"" if done == ALL else self._next_master(done).write(), found
        raise PluginError(
            StatusCode.UNAVAILABLE, f"{node.shared.name} gave no keys in {MAX_TRIES} tries"
        )

    async def _kept(self, node: Node, position: Position) -> int:
        """The slots that a master had when its turn in a scan began, and still has: it says so
        itself, as the map may be old."""
        known = await node.ask_map()
        ranges = (one[:2] for one in known.ranges if one.identity == position.master)
        kept = position.began & mask_of(ranges) if known.works else 0
        if kept != position.began:
            await self._map.read()
        if not known.works and position.master in self._map.masters:
            raise PluginError(
                StatusCode.UNAVAILABLE, f"the cluster does not work for {node.shared.name}"
            )
        return kept

    def _next_master(self, done: int) -> Position:
        rest = ALL & ~done
        first = (rest & -rest).bit_length() - 1
        for identity, (_, slots) in self._map.masters.items():
            if slots >> first & 1:
                return Position(done, identity, slots, b"0")
        raise PluginError(
            StatusCode.UNAVAILABLE, f"no server of the cluster has the slot {first}, nor its keys"
        )
