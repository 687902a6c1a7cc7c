"""One connection to a server: bytes, TLS, the handshake, and RESP3 by hiredis.

Needs Redis 6 or later, or Valkey: RESP3, in which what nobody asked for (messages, keys that
have changed) is told apart from answers.
"""

import logging
import os
import socket
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import anyio
import anyio.abc
from anyio.streams.tls import TLSStream
from hiredis import HiredisError, PushNotification, Reader, ReplyError, pack_command

from prism.sdk import PluginError, StatusCode, exposed_key, unfit_pem
from prism.sdk.byte_streams import RECEIVE_SIZE, ByteStream, SocketStream
from prism.sdk.multiplexed import TransportBroken

from .config import RedisConfig, Server, read_address
from .errors import translate

log = logging.getLogger("prism.plugins.redis")

Argument = bytes | str | int | float

_NOTHING = object()

TLS_SHARE = 0.8
"""Of the time to connect: the rest is to say that it was TLS which was not answered."""


def packed(command: Sequence[Argument]) -> bytes:
    """A command as it travels."""
    data: bytes = pack_command(tuple(command))  # type: ignore[arg-type]  # its stub takes one
    return data


class RedisTransport:
    """A connection that is ready for commands; a ``Transport`` of the SDK.

    A reply is what RESP3 has: bytes, int, float, bool, None, lists, dictionaries, and errors as
    ``ReplyError`` objects. What the server pushes is kept in ``pushes``.
    """

    def __init__(self, stream: ByteStream, server: Server, *, of_cluster: bool = False) -> None:
        self.server = server
        self.of_cluster = of_cluster
        self.pushes: deque[Sequence[Any]] = deque()
        self.role = ""
        self._stream = stream
        self._reader = Reader(notEnoughData=_NOTHING)
        self._out: list[bytes] = []

    def write(self, request: bytes) -> None:
        """Add packed commands to what is to be sent."""
        self._out.append(request)

    def flush_nowait(self) -> bool:
        """Send what leaves at once; False if ``flush`` is to do the rest."""
        if not isinstance(self._stream, SocketStream):
            return False
        data = self._take_out()
        try:
            taken = self._stream.send_nowait(data)
        except anyio.BrokenResourceError:
            taken = 0  # who reads, or flushes, meets it, too
        if taken < len(data):
            self._out.append(data[taken:])
        return not self._out

    async def flush(self) -> None:
        """Send what was written."""
        await self._stream.send(self._take_out())

    def _take_out(self) -> bytes:
        out = self._out
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    async def read(self) -> list[Any]:
        """The next replies; none where the server only pushed something."""
        reader = self._reader
        replies: list[Any] = []
        try:
            reader.feed(await self._stream.receive(RECEIVE_SIZE))
            while (reply := reader.gets()) is not _NOTHING:
                if type(reply) is PushNotification:
                    self.pushes.append(reply)
                else:
                    replies.append(reply)
        except HiredisError as error:
            raise TransportBroken(f"the server does not speak RESP: {error}") from error
        return replies

    async def aclose(self) -> None:
        """Close."""
        await self._stream.aclose()

    async def ask(self, *commands: Sequence[Argument]) -> list[Any]:
        """The replies to some commands, where no other task uses the connection.

        Raises:
            PluginError: one of them is an error; the connection is of no more use.
        """
        for command in commands:
            self.write(packed(command))
        await self.flush()
        replies: list[Any] = []
        while len(replies) < len(commands):
            replies += self._without_errors(await self.read())
        return replies

    async def raise_refusal(self) -> None:
        """Raise what a server said before it closed the connection, if it said something."""
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            self._without_errors(await self.read())

    def _without_errors(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise translate(reply, of_cluster=self.of_cluster)
        return replies


class Connector:
    """Connects as one namespace's configuration and credentials say."""

    def __init__(
        self, config: RedisConfig, server: Server, credentials: Mapping[str, str], client: str
    ) -> None:
        self._config = config
        self._server = server
        self._credentials = credentials
        self._client = client
        self._context = tls_context(config) if server.tls else None
        self._sentinels: list[tuple[str, int]] = []
        if config.sentinel is not None:
            for address in config.sentinel.addresses:
                self._sentinels.append(read_address(address))

    async def connect(self) -> RedisTransport:
        """A connection to the server, or to the master that a sentinel names, authenticated and
        with the database chosen.

        Raises:
            PluginError: the server refuses, or is no master.
            OSError: it cannot be reached, or its certificate is not good.
        """
        server = await self._ask_sentinels() if self._sentinels else self._server
        return await self.connect_to(server)

    async def connect_to(self, server: Server) -> RedisTransport:
        """Like ``connect``, to this server."""
        transport = await self._open(server)
        try:
            hello: list[Argument] = ["HELLO", 3]
            password = self._credentials.get("password")
            if password is not None:
                hello += ["AUTH", self._credentials.get("username") or "default", password]
            hello += ["SETNAME", self._client]
            told, _ = await _handshake(transport, hello, ["SELECT", server.database])
            transport.role = told.get(b"role", b"").decode()
            self._check_mode(server, told.get(b"mode"))
            if self._sentinels and transport.role != "master":
                raise TransportBroken(f"{server} is not a master any more")
        except BaseException:
            with anyio.move_on_after(1, shield=True):
                await transport.aclose()
            raise
        return transport

    def _check_mode(self, server: Server, mode: bytes | None) -> None:
        cluster = self._config.cluster is not None
        if mode == b"cluster" and not cluster:
            problem = f"{server} is one of a cluster: name some of its servers in "
        elif mode == b"standalone" and cluster:
            problem = f"{server} is none of a cluster: use config.url instead of "
        else:
            return
        raise PluginError(StatusCode.FAILED_PRECONDITION, f"{problem}config.cluster.addresses")

    async def _open(self, server: Server) -> RedisTransport:
        if self._context is not None:
            name = self._config.tls_server_name or server.host
            plain = await anyio.connect_tcp(server.host, server.port)
            stream: ByteStream = await self._shake_hands(plain, self._context, name)
        else:
            stream = SocketStream(await _dial(server))
        return RedisTransport(stream, server, of_cluster=self._config.cluster is not None)

    async def _shake_hands(
        self, plain: anyio.abc.SocketStream, context: ssl.SSLContext, name: str
    ) -> ByteStream:
        """A server without TLS waits for the end of a line, and says nothing."""
        try:
            with anyio.fail_after(self._config.connect_timeout_seconds * TLS_SHARE):
                return await TLSStream.wrap(
                    plain,
                    hostname=name,
                    ssl_context=context,
                    standard_compatible=False,  # RESP has its own ends
                )
        except BaseException as error:
            await anyio.aclose_forcefully(plain)
            if isinstance(error, TimeoutError):
                raise TransportBroken(
                    "it takes the connection, and does not answer in TLS; without TLS the url "
                    "is redis://"
                ) from None
            raise

    async def _ask_sentinels(self) -> Server:
        """The master's address, from the first sentinel that knows it."""
        assert self._config.sentinel is not None  # noqa: S101 - who has sentinels, has this
        name = self._config.sentinel.name
        problems: list[str] = []
        for host, port in self._sentinels:
            sentinel = Server(host, port, tls=self._server.tls)
            try:
                with anyio.fail_after(self._config.connect_timeout_seconds / 2):
                    transport = await self._open(sentinel)
                    try:
                        found = (await self._ask_one(transport, name))[0]
                    finally:
                        with anyio.move_on_after(1, shield=True):
                            await transport.aclose()
            except TimeoutError:
                problems.append(f"{sentinel} does not answer")
                continue
            except (PluginError, TransportBroken, OSError, anyio.EndOfStream) as error:
                problems.append(f"{sentinel}: {error}")
                continue
            if found is not None:
                return Server(
                    found[0].decode(),
                    int(found[1]),
                    tls=self._server.tls,
                    database=self._server.database,
                )
            problems.append(f"{sentinel} knows no master {name!r}")
        raise TransportBroken(f"no sentinel names a master: {'; '.join(problems)}")

    async def _ask_one(self, transport: RedisTransport, name: str) -> list[Any]:
        command = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name]
        password = self._credentials.get("sentinel_password")
        if password is None:
            return await transport.ask(command)
        user = self._credentials.get("sentinel_username") or "default"
        return (await transport.ask(["AUTH", user, password], command))[1:]


async def _handshake(transport: RedisTransport, *commands: Sequence[Argument]) -> list[Any]:
    try:
        return await transport.ask(*commands)
    except PluginError as error:
        if "unknown command" in error.detail or "NOPROTO" in error.detail:
            raise PluginError(
                StatusCode.FAILED_PRECONDITION,
                f"{transport.server} does not speak RESP3; Redis 6 or later, or Valkey, does",
            ) from error
        raise
    except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
        await transport.raise_refusal()
        raise TransportBroken(f"{transport.server} closed the connection at once") from error


async def _dial(server: Server) -> socket.socket:
    """A connected socket.

    Raises:
        OSError: none of the host's addresses takes the connection; it is the last one's.
    """
    if server.path:
        return await _connect(socket.AF_UNIX, server.path)
    problem = OSError(f"{server.host} has no address")
    found = await anyio.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    for family, _, _, _, address in found:
        try:
            sock = await _connect(family, address)
        except OSError as error:
            problem = error
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock
    raise problem


async def _connect(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            sock.connect(address)
        except BlockingIOError:
            await anyio.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code)) from None
    except BaseException:
        sock.close()
        raise
    return sock


def tls_context(config: RedisConfig) -> ssl.SSLContext:
    """Verifies the server's certificate and name, always.

    Raises:
        PluginError: INVALID_ARGUMENT, a file cannot be read, or any user may change it.
    """
    for name in ("ca_cert", "client_cert", "client_key"):
        file = getattr(config, name)
        if file is not None and (why := unfit_pem(file)):
            raise PluginError(StatusCode.INVALID_ARGUMENT, f"config.{name} {file!r}: {why}")
    key = config.client_key or config.client_cert
    if key is not None and (exposed := exposed_key(key)):
        log.warning("%s", exposed)
    try:
        context = ssl.create_default_context(cafile=config.ca_cert)
    except (OSError, ssl.SSLError) as error:
        raise PluginError(
            StatusCode.INVALID_ARGUMENT, f"config.ca_cert {config.ca_cert!r}: {error}"
        ) from error
    if config.client_cert is not None:
        try:
            context.load_cert_chain(config.client_cert, config.client_key)
        except (OSError, ssl.SSLError) as error:
            raise PluginError(
                StatusCode.INVALID_ARGUMENT,
                f"config.client_cert {config.client_cert!r}, client_key "
                f"{config.client_key!r}: {error}",
            ) from error
    return context
