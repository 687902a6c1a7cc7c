"""How a plugin is reached and initialised.

A :class:`Connector` makes the connection of one generation. Within ``connect`` the channel is
up: handshake done, tasks running in the nursery that was given. Leaving it closes the channel
and ends the process, if there is one, whatever happened inside; its tasks then end by
themselves. ``initialize`` is the first call over it.
"""

import logging
import math
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from msgspec.structs import replace

from prism import __version__
from prism.channels.channel import PluginChannel
from prism.channels.frames.channel import ChannelSettings, FramedChannel
from prism.channels.in_process import InProcessChannel, is_fault, speaker
from prism.config.types import ClientTLS, PluginConfig, PluginForm
from prism.contract.errors import CallError, ChannelError, SaidNothing
from prism.contract.messages import (
    InitializeRequest,
    InitializeResponse,
    OperationDeclaration,
    ProxyCapabilities,
)
from prism.contract.names import OPERATION, OPERATION_FORM
from prism.hosts import host_command, host_environment
from prism.hosts.library import LibraryPlugin, plugin_class
from prism.hosts.loading import LibraryUnfit, shared_library
from prism.isolation.confinement import Confinement, Isolation, Subject, confine
from prism.isolation.machine import machine
from prism.streams import tcp, unix
from prism.streams.errors import LaunchError
from prism.streams.tls import TLSFiles
from prism.supervision import process
from prism.supervision.events import Journal, PluginLog
from prism.supervision.instance import InstanceSpec
from prism.supervision.loading import load_plugin
from prism.verification import VerifiedCommand, Verifier, log_verdict
from prism.verification.command import find_program, missing_script, take_apart
from prism.wire.events import GoAway, Hello, Note

if TYPE_CHECKING:
    from prism.channels.grpc import GrpcChannel

log = logging.getLogger("prism.supervision")

_SCHEMAS = tuple(name for name in OperationDeclaration.__struct_fields__ if "schema" in name)

MAX_NAME = 100
"""Characters of a plugin's own name that the log shows."""
FIRST_PAUSE = 0.01
LAST_PAUSE = 0.5
"""Seconds between two looks whether a program that was started listens; doubled each time."""
PAUSE_AFTER_STRANGER = 0.1
"""Seconds, so that a process that may not connect cannot fill the log."""


class Connector:
    """Reaches the plugin of one generation, and ends what that started.

    ``listener`` is where the plugin dials in, if it does. ``fresh`` loads the code of a
    plugin in this process anew. The callbacks get what the plugin says between calls; they
    are called from readers and must not block. ``plugin_log`` gets the lines that its
    process writes, and hides in what else it says what must not be seen.

    ``pid`` is known once there is a process, and ``ending``, how it ended, once there was one;
    ``isolation``, what holds for it, where it is started here.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        *,
        plugin_log: PluginLog | None = None,
        listener: unix.UnixListener | None = None,
        fresh: bool = False,
        on_note: Callable[[Note], None] = lambda _note: None,
        on_goaway: Callable[[GoAway], None] = lambda _goaway: None,
    ) -> None:
        self.ending = ""
        self.isolation: Isolation | None = None
        self._spec = spec
        self._listener = listener
        self._fresh = fresh
        self._on_note = on_note
        self._on_goaway = on_goaway
        self._plugin_log = plugin_log or PluginLog(Journal(spec.namespace), spec.plugin_name, "")

    @property
    def pid(self) -> int | None:
        """The plugin's process, where it is known."""
        return self._plugin_log.pid

    @asynccontextmanager
    async def connect(self, nursery: trio.Nursery) -> AsyncGenerator[PluginChannel, None]:
        """The channel to the plugin, whose tasks run in ``nursery``. To be entered once.

        Cancelling it at any point ends what was started.

        Raises:
            LaunchError, ChannelError: the plugin cannot be reached, or was lost; the message
                says why, and how its process ended.
        """
        match self._spec.plugin.form:
            case PluginForm.MODULE:
                connection = _closing(await self._in_process())
            case PluginForm.LIBRARY if self._spec.plugin.shares_process:
                connection = self._in_library()
            case PluginForm.COMMAND | PluginForm.LIBRARY | PluginForm.WASM:
                connection = self._spawned(nursery)
            case _:
                stream = await self._dial(nursery)
                connection = self._running(self._channel_over(stream), nursery)
        async with connection as channel:
            yield channel

    def _channel_over(self, stream: trio.abc.Stream) -> "FramedChannel | GrpcChannel":
        plugin = self._spec.plugin
        settings = ChannelSettings(
            handshake_timeout=plugin.start_timeout_seconds,
            cancel_grace=plugin.cancel_grace_seconds,
            max_frame=plugin.max_frame_bytes,
            ping_interval=plugin.health.interval_seconds,
            strict=plugin.strict,
        )
        channel = (self._grpc if plugin.type == "grpc" else self._framed)(stream, settings)
        # One that dialled in may have served before, and know them when it says HELLO.
        channel.redaction = self._plugin_log.redaction
        return channel

    def _framed(self, stream: trio.abc.Stream, settings: ChannelSettings) -> FramedChannel:
        return FramedChannel(
            stream,
            settings,
            name=self._spec.label,
            version=__version__,
            on_note=self._on_note,
            on_goaway=self._on_goaway,
            on_fault=self._plugin_log.fault,
        )

    def _grpc(self, stream: trio.abc.Stream, settings: ChannelSettings) -> "GrpcChannel":
        # Imported here: its libraries take time and memory, which is for such plugins alone.
        from prism.channels.grpc import GrpcChannel

        return GrpcChannel(
            stream,
            settings,
            authority=self._spec.plugin.endpoint_text,
            namespace=self._spec.namespace,
            name=self._spec.label,
            version=__version__,
            on_goaway=self._on_goaway,
            on_fault=self._plugin_log.fault,
        )

    @asynccontextmanager
    async def _running(
        self, channel: "FramedChannel | GrpcChannel", nursery: trio.Nursery
    ) -> AsyncGenerator[PluginChannel, None]:
        """A channel over a stream, from its handshake to its end."""
        async with _closing(channel):
            if not isinstance(channel, FramedChannel):
                await channel.handshake()
                nursery.start_soon(channel.run)
                yield channel
                return
            with self._plugin_log.traced(channel):
                self._note_name(await channel.handshake())
                nursery.start_soon(channel.run)
                yield channel

    def _note_name(self, hello: Hello) -> None:
        """Operators know it by the configuration's name; say its own where that is another."""
        if hello.name and hello.name != self._spec.plugin_name:
            hide = self._plugin_log.redaction.start_of
            name, version = hide(hello.name, MAX_NAME), hide(hello.version, MAX_NAME)
            self._say("%s calls itself %r, version %r", self._spec.label, name, version)

    # -- plugins that others start ------------------------------------------------------

    async def _dial(self, nursery: trio.Nursery) -> trio.abc.Stream:
        """A stream to a plugin that runs, or will run, by itself. Cancelling leaves none."""
        spec, plugin = self._spec, self._spec.plugin
        if self._listener is not None:
            return await self._accept(self._listener)
        place = plugin.socket or spec.replica or plugin.endpoint_text
        files, address = _tls_files(plugin.tls), spec.address
        with trio.move_on_after(plugin.start_timeout_seconds):
            match plugin.form, plugin.type:
                case PluginForm.SOCKET, _:
                    return await unix.dial(Path(place), group=plugin.group)
                case PluginForm.ENDPOINT, "remote":
                    return await tcp.dial(*plugin.address, files, address=address)
                case PluginForm.ENDPOINT, "grpc":
                    return await tcp.dial(*plugin.address, files, protocols=["h2"], address=address)
                case PluginForm.ENDPOINT, "websocket":
                    from prism.channels import websocket  # here, as with gRPC

                    return await websocket.dial(
                        plugin.websocket_url, files, nursery, address=address
                    )
                case PluginForm.ENDPOINT, kind:
                    raise LaunchError(f"{spec.label}: type {kind!r} is not supported yet")
            raise LaunchError(f"{spec.label}: it cannot be started")
        raise LaunchError(f"{spec.label}: {place} did not accept in time")

    async def _accept(
        self, listener: unix.UnixListener, started: int | None = None
    ) -> trio.SocketStream:
        """The next plugin that dials in; a stranger is turned away and is not its failure.

        ``started``: only what belongs to this process of ours. Another may be the one before it,
        that dials again until it is ended.
        """
        accepted = None
        try:
            async with trio.open_nursery() as nursery:

                async def stop_when_removed() -> None:
                    await listener.wait_removed()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(stop_when_removed)
                while accepted is None:
                    try:
                        accepted = await listener.accept()
                    except ChannelError as error:
                        log.warning("%s", error)
                        await trio.sleep(PAUSE_AFTER_STRANGER)
                    else:
                        accepted = await self._unless_strange(accepted, started)
                nursery.cancel_scope.cancel()
        except BaseException:
            if accepted is not None:
                await trio.aclose_forcefully(accepted[0])
            raise
        if accepted is None:
            raise LaunchError(f"the socket {listener.path} was removed")
        stream, peer = accepted
        if started is None:
            self._plugin_log.pid = peer.pid
        log.info("%s dialled in on %s (%s)", self._spec.label, listener.path, peer)
        return stream

    async def _unless_strange(
        self, accepted: tuple[trio.SocketStream, unix.PeerCredentials], started: int | None
    ) -> tuple[trio.SocketStream, unix.PeerCredentials] | None:
        stream, peer = accepted
        if started is None or process.descends_from(peer.pid, started):
            return accepted
        log.info("%s: turned away %s, which pid %d is not", self._spec.label, peer, started)
        await trio.aclose_forcefully(stream)
        return None

    # -- plugins that the proxy starts ----------------------------------------------------

    # These block, in a worker thread: for files, and for those who own them, whom a directory
    # service may know.

    def _verifier(self) -> Verifier:
        return Verifier(self._spec.plugin, self._spec.label, self._spec.verification)

    def _verified_command(self, search_path: str) -> VerifiedCommand:
        spec, plugin = self._spec, self._spec.plugin
        if plugin.file is not None:
            return self._verifier().sealed(plugin.file, self._wasm_host)
        if plugin.library is not None:
            return self._verifier().sealed(plugin.library, self._library_host)
        try:
            command = self._verifier().command(search_path)
        except ValueError as error:
            raise LaunchError(f"{spec.label}: command: {error}") from None
        missing = missing_script(
            take_apart(plugin.argv, plugin.entry, plugin.working_directory, search_path)
        )
        if missing is not None and command.verdict is None:
            where = plugin.working_directory or Path.cwd()
            raise LaunchError(f"{spec.label}: there is no file {missing} in {where}")
        return command

    def _wasm_host(self, module: int) -> list[str]:
        """The command of the process that runs a WebAssembly module, open as descriptor."""
        plugin = self._spec.plugin
        command = host_command("wasm", plugin.file or "", module, plugin.cancel_grace_seconds)
        settings = plugin.wasm.settings().decode()
        return [*command, f"--name={self._spec.plugin_name}", f"--settings={settings}"]

    def _library_host(self, library: int) -> list[str]:
        plugin = self._spec.plugin
        return host_command("native", plugin.library or "", library, plugin.cancel_grace_seconds)

    @asynccontextmanager
    async def _in_library(self) -> AsyncGenerator[PluginChannel, None]:
        """A library in this process: its own copy, or that of a plugin with the same content."""
        before = speaker.set(self._plugin_log)
        try:
            kind = await trio.to_thread.run_sync(self._library_class)
            plugin = kind()
        finally:
            speaker.reset(before)
        channel = InProcessChannel(plugin, self._spec.label, self._plugin_log)
        plugin.on_stuck = channel.break_off
        plugin.on_health = lambda health: self._on_note(Note(health=health))
        try:
            async with _closing(channel):
                yield channel
        finally:
            await plugin.aclose()

    def _library_class(self) -> type[LibraryPlugin]:
        """Blocks, and runs the library's constructors, in a worker thread."""
        spec, plugin = self._spec, self._spec.plugin
        place = plugin.library or ""
        with self._verifier().sealed(place, lambda copy: [f"/proc/self/fd/{copy}"]) as copy:
            log_verdict(spec.label, copy.verdict, spec.verification)
            digest = copy.verdict.content.digest if copy.verdict else ""
            try:
                library = shared_library(copy.words[0], place, str(digest))
            except LibraryUnfit as error:
                raise LaunchError(f"{spec.label}: {error}") from None
        return plugin_class(
            library, cancel_grace=plugin.cancel_grace_seconds, max_answer=plugin.max_frame_bytes
        )

    def _confined(self, command: VerifiedCommand, search_path: str) -> Confinement:
        spec, plugin = self._spec, self._spec.plugin
        program = command.executable
        if program is None or program.startswith("/proc/"):  # a copy of what the word says
            program = find_program(command.words[0], plugin.working_directory, search_path)
        config = msgspec.json.decode(spec.config_json)
        hosted = (plugin.library, plugin.file)
        told = (config, plugin.environment, plugin.argv, plugin.socket, hosted)
        subject = Subject(spec.label, program, plugin.working_directory, told)
        return confine(spec.isolation, subject, machine())

    def _note_isolation(self, isolation: Isolation) -> None:
        self.isolation = isolation
        self._plugin_log.isolation(str(isolation))

    async def _in_process(self) -> InProcessChannel:
        before = speaker.set(self._plugin_log)
        try:
            kind = await load_plugin(self._spec, fresh=self._fresh)
            plugin = kind()
        except LaunchError:
            raise
        except BaseException as error:
            if not is_fault(error):
                raise
            raise LaunchError(
                f"{self._spec.label} cannot be made: {type(error).__name__}: {error}", crashed=True
            ) from error
        finally:
            speaker.reset(before)
        return InProcessChannel(plugin, self._spec.label, self._plugin_log)

    @asynccontextmanager
    async def _spawned(self, nursery: trio.Nursery) -> AsyncGenerator[PluginChannel, None]:
        spec, plugin = self._spec, self._spec.plugin
        is_hosted = plugin.form is not PluginForm.COMMAND
        environment = host_environment() if is_hosted else plugin.environment
        search_path = process.clean_environment(environment)["PATH"]
        async with AsyncExitStack() as cleanup:
            with await trio.to_thread.run_sync(self._verified_command, search_path) as command:
                log_verdict(spec.label, command.verdict, spec.verification)
                confinement = await trio.to_thread.run_sync(self._confined, command, search_path)
                cleanup.push_async_callback(_close, confinement)
                self._note_isolation(confinement.isolation)
                start = process.start if plugin.socket is None else self._without_connection
                child, stream = await start(
                    spec.plugin_name,
                    command.words,
                    environment,
                    plugin.working_directory,
                    self._plugin_log.line,
                    executable=command.executable,
                    descriptors=command.descriptors,
                    confinement=confinement,
                )
            pid = self._plugin_log.pid = child.pid
            self._say("%s started as pid %d for namespace %s", spec.label, pid, spec.namespace)
            nursery.start_soon(child.listen)
            if child.listener is not None:
                cleanup.callback(self._decide_connections(child.listener, confinement, nursery))
            try:
                if stream is None:
                    stream = await self._meet(child, nursery)
                async with self._running(self._channel_over(stream), nursery) as channel:
                    yield channel
            except (ChannelError, LaunchError, CallError) as error:
                raise await self._explain(child, error) from error
            finally:
                self.ending = await child.end(plugin.kill_timeout_seconds)
                self._say("%s (pid %d) %s", spec.label, pid, self.ending)

    def _decide_connections(
        self, listener: int, confinement: Confinement, nursery: trio.Nursery
    ) -> Callable[[], None]:
        """Have a broker decide what the plugin connects to; returns what ends that."""
        # Imported here, as gRPC's: few plugins need it.
        from prism.isolation.broker import Broker
        from prism.isolation.egress import EgressRules

        entries = [(each.to, _tls_files(each.tls)) for each in confinement.egress or ()]
        broker = Broker(
            EgressRules(entries), self._plugin_log.denied, counts=self._plugin_log.egress
        )
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await broker.run(listener)

        nursery.start_soon(run)
        return scope.cancel

    async def _without_connection(
        self,
        name: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *rest: Any,
        **options: Any,
    ) -> tuple[process.PluginProcess, None]:
        """As ``process.start`` for a program that is reached over a socket with a path: it is told
        that of one on which we listen; where it listens itself, it knows."""
        if self._listener is not None:
            environment = {**environment, unix.SOCKET_VARIABLE: str(self._listener.path)}
        return await process.run(name, argv, environment, *rest, **options), None

    async def _meet(self, child: process.PluginProcess, nursery: trio.Nursery) -> trio.SocketStream:
        """The connection to a process that was started without one.

        Raises:
            LaunchError: it ended before, or there was none in time.
        """
        plugin, path = self._spec.plugin, Path(self._spec.plugin.socket or "")
        scope, watching = trio.CancelScope(), trio.CancelScope()
        when = f"within {plugin.start_timeout_seconds:g} s"

        async def stop_at_its_end() -> None:
            nonlocal when
            with watching:
                await child.wait_ended(math.inf)
                when = "before it ended"
                scope.cancel()

        nursery.start_soon(stop_at_its_end)
        absence = f"it did not dial {path}"
        try:
            scope.deadline = trio.current_time() + plugin.start_timeout_seconds
            with scope:
                if self._listener is not None:
                    return await self._accept(self._listener, child.pid)
                pause = FIRST_PAUSE
                while True:
                    try:
                        return await self._dial_own(path, child.pid)
                    except LaunchError as error:
                        absence = str(error)
                    await trio.sleep(pause)
                    pause = min(2 * pause, LAST_PAUSE)
        finally:
            watching.cancel()
        raise LaunchError(f"{self._spec.label} was not reached {when}: {absence}", crashed=True)

    async def _dial_own(self, path: Path, started: int) -> trio.SocketStream:
        """A stream to where our process listens.

        Raises:
            LaunchError: it does not, or not yet.
        """
        stream = await unix.dial(path, group=self._spec.plugin.group)
        peer = unix.peer_credentials(stream)
        if process.descends_from(peer.pid, started):
            return stream
        await trio.aclose_forcefully(stream)
        raise LaunchError(f"another process ({peer}) listened on {path}")

    def _say(self, message: str, *values: object) -> None:
        log.info(message, *values, extra={"fields": self._plugin_log.fields})

    async def _explain(self, child: process.PluginProcess, error: Exception) -> LaunchError:
        """``error`` with how the process ended, and what it wrote: that is for operators alone."""
        message, crashed = str(error), getattr(error, "crashed", True)
        if await child.wait_ended(process.EXIT_TIMEOUT):
            await child.wait_silent()
            if crashed:  # else it has said why itself, and went as it should
                message += f"; its process {child.ending}"
                if isinstance(error, SaidNothing) and child.ending == "exited with status 0":
                    message += " (does it end with a call of serve(...), or speak the protocol?)"
        lines = self._plugin_log.last_lines
        if lines and not log.isEnabledFor(logging.INFO):  # else they are there, as they came
            log.warning(
                "the last output of %r (pid %d):\n    %s",
                child.name,
                child.pid,
                "\n    ".join(lines),
                extra={"fields": self._plugin_log.fields},
            )
        return LaunchError(message, output=lines, crashed=crashed)


async def _close(confinement: Confinement) -> None:
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(confinement.close)


@asynccontextmanager
async def _closing(channel: PluginChannel) -> AsyncGenerator[PluginChannel, None]:
    try:
        yield channel
    finally:
        with trio.CancelScope(shield=True):
            await channel.aclose()


def _tls_files(files: ClientTLS | None) -> TLSFiles | None:
    if files is None or not files.enabled:
        return None
    return TLSFiles(files.ca_cert, files.cert, files.key, files.server_name)


# -- the first call ---------------------------------------------------------------------


async def initialize(
    channel: PluginChannel, spec: InstanceSpec, credentials: dict[str, str]
) -> InitializeResponse:
    """Configure the plugin behind ``channel``; returns its consent. Cancelling leaves the
    channel to be closed.

    Raises:
        LaunchError: it refused, gave no answer in time, or offers what cannot be called.
        CallError: the channel broke.
    """
    limit = spec.plugin.start_timeout_seconds
    request = InitializeRequest(
        namespace=spec.shadow_of or spec.namespace,
        backend_type=spec.backend,
        config_json=spec.config_json,
        credentials=credentials,
        capabilities=ProxyCapabilities(
            supports_metrics_push=True,
            supports_distributed_tracing=True,
            supports_hot_reload=True,
            proxy_version=__version__,
        ),
        cache=spec.cache,
    )
    with trio.move_on_after(limit) as in_time:
        answer = await channel.initialize(request)
    if in_time.cancelled_caught:
        raise LaunchError(
            f"{spec.label} did not answer Initialize within {limit:g} seconds", crashed=True
        )
    if not answer.success:
        raise LaunchError(f"{spec.label} refused to start: {answer.error or 'it did not say why'}")
    names = declared_operations(answer)
    unfit = [name for name in names if re.fullmatch(OPERATION, name) is None]
    if unfit:
        shown = ", ".join(repr(name[:100]) for name in unfit[:5])
        raise LaunchError(
            f"{spec.label} offers operations that nobody could call: {shown}; "
            f"an operation is {OPERATION_FORM}"
        )
    operations = [_with_readable_schemas(declared, spec) for declared in answer.operations]
    return answer if operations == answer.operations else replace(answer, operations=operations)


def _with_readable_schemas(
    declared: OperationDeclaration, spec: InstanceSpec
) -> OperationDeclaration:
    """``declared`` without those of its schemas that are no JSON objects."""
    unreadable = [
        field
        for field in _SCHEMAS
        if getattr(declared, field) and not _is_object(getattr(declared, field))
    ]
    for field in unreadable:
        log.warning(
            "%s: the %s of its operation %s is no JSON object, and is left out",
            spec.label,
            field,
            declared.name,
        )
    return replace(declared, **dict.fromkeys(unreadable, "")) if unreadable else declared


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return False


def declared_operations(answer: InitializeResponse) -> dict[str, OperationDeclaration]:
    """Every operation that the plugin supports; an empty declaration where it made none."""
    declared = {operation.name: operation for operation in answer.operations}
    return {
        name: declared.get(name, OperationDeclaration(name=name))
        for name in answer.supported_operations or declared
    }


# -- where plugins dial in --------------------------------------------------------------


class DialInSockets:
    """The sockets on which a namespace's plugin dials in, kept open between its connections.

    There are two only while a reload moves the plugin from one path to another.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._listeners: dict[Path, unix.UnixListener] = {}

    async def open(self, plugin: PluginConfig) -> unix.UnixListener:
        """The socket of ``plugin``: opened, unless it is open and its file still in place.

        Raises:
            LaunchError: the path cannot be used.
        """
        group = None
        if plugin.group is not None:  # a directory service may have to be asked
            group = await trio.to_thread.run_sync(
                unix.find_group, plugin.group, abandon_on_cancel=True
            )
        # The rest is short, on the event loop: sockets lie in file systems of this machine.
        path = Path(plugin.socket or "")
        listener = self._listeners.get(path)
        if listener is not None and not listener.in_place:
            await self._close(path)
            listener = None
        if listener is None:
            listener = unix.listen(path, group=group, mode=plugin.socket_mode)
            self._listeners[path] = listener
            log.info("namespace %s waits for its plugin to dial %s", self._namespace, path)
        return listener

    async def keep_only(self, plugin: PluginConfig | None) -> None:
        """Close all sockets but ``plugin``'s. Not to be cancelled: it is done at once."""
        kept = Path(plugin.socket) if plugin is not None and plugin.socket else None
        for path in [path for path in self._listeners if path != kept]:
            await self._close(path)

    async def _close(self, path: Path) -> None:
        with trio.CancelScope(shield=True):
            await self._listeners.pop(path).aclose()
