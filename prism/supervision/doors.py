"""The ways to a plugin: each opens a channel, and ends what it started.

A door is an async context manager. Inside it the channel is up: handshake done,
tasks running in the nursery that was given. Leaving it closes the channel and
ends the process, if there is one, whatever happened inside; its tasks then end
by themselves.
"""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import trio

from prism import __version__
from prism.channels import websocket
from prism.channels.channel import PluginChannel
from prism.channels.frames.channel import ChannelSettings, FramedChannel
from prism.channels.grpc import GrpcChannel
from prism.channels.in_process import InProcessChannel, is_fault
from prism.config.types import PluginConfig, PluginForm
from prism.contract.errors import CallError, ChannelError
from prism.streams import tcp, unix
from prism.streams.errors import LaunchError
from prism.streams.tls import TLSFiles
from prism.supervision import process
from prism.supervision.loading import load_plugin
from prism.supervision.news import News
from prism.supervision.spec import InstanceSpec
from prism.verification import Verifier, log_verdict

log = logging.getLogger("prism.supervision")

PAUSE_AFTER_STRANGER = 0.1
"""Seconds, so that somebody who may not connect cannot fill the log."""


def open_door(
    spec: InstanceSpec,
    news: News,
    listener: unix.UnixListener | None,
    nursery: trio.Nursery,
    *,
    fresh: bool = False,
) -> AbstractAsyncContextManager[PluginChannel]:
    """The way to ``spec``'s plugin; ``listener`` is where it dials in, if it does.

    ``fresh`` loads the code of a plugin in this process anew. Entering raises
    LaunchError or ChannelError when the plugin cannot be reached.
    """
    plugin = spec.plugin
    match plugin.form:
        case PluginForm.MODULE:
            return _in_process(spec, fresh=fresh)
        case PluginForm.LIBRARY:
            log_verdict(spec.label, _verifier(spec).library(), spec.verification)
        case PluginForm.COMMAND:
            return _spawned(spec, news, nursery)
        case PluginForm.SOCKET if listener is not None:
            return _dialling_in(spec, news, listener, nursery)
        case PluginForm.SOCKET:
            return _dialled(spec, news, nursery)
        case PluginForm.ENDPOINT if plugin.type == "remote":
            return _remote(spec, news, nursery)
        case PluginForm.ENDPOINT if plugin.type == "grpc":
            return _grpc(spec, news, nursery)
        case PluginForm.ENDPOINT if plugin.type == "websocket":
            return _websocket(spec, news, nursery)
        case PluginForm.ENDPOINT:
            raise LaunchError(f"{spec.label}: type {plugin.type!r} is not supported yet")
    raise LaunchError(f"{spec.label}: {plugin.unsupported or 'it cannot be started'}")


@asynccontextmanager
async def _in_process(spec: InstanceSpec, *, fresh: bool) -> AsyncGenerator[PluginChannel, None]:
    kind = await load_plugin(spec, fresh=fresh)
    try:
        plugin = kind()
    except BaseException as error:
        if not is_fault(error):
            raise
        raise LaunchError(
            f"{spec.label} cannot be made: {_described(error)}", crashed=True
        ) from error
    channel = InProcessChannel(plugin, spec.label)
    try:
        yield channel
    finally:
        with trio.CancelScope(shield=True):
            await channel.aclose()


def _verifier(spec: InstanceSpec) -> Verifier:
    return Verifier(spec.plugin, spec.label, spec.verification)


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _settings(plugin: PluginConfig) -> ChannelSettings:
    return ChannelSettings(
        handshake_timeout=plugin.start_timeout_seconds,
        cancel_grace=plugin.cancel_grace_seconds,
        max_frame=plugin.max_frame_bytes,
        ping_interval=plugin.health.interval_seconds,
    )


@asynccontextmanager
async def _framed(
    spec: InstanceSpec, news: News, nursery: trio.Nursery, stream: trio.abc.Stream
) -> AsyncGenerator[FramedChannel, None]:
    channel = FramedChannel(
        stream,
        _settings(spec.plugin),
        name=spec.label,
        version=__version__,
        on_note=news.take,
        on_goaway=news.goaway,
    )
    try:
        await channel.handshake()
        nursery.start_soon(channel.run)
        yield channel
    finally:
        with trio.CancelScope(shield=True):
            await channel.aclose()


@asynccontextmanager
async def _spawned(
    spec: InstanceSpec, news: News, nursery: trio.Nursery
) -> AsyncGenerator[PluginChannel, None]:
    plugin = spec.plugin
    search_path = process.clean_environment(plugin.environment)["PATH"]
    try:
        command = await trio.to_thread.run_sync(_verifier(spec).command, search_path)
    except ValueError as error:
        raise LaunchError(f"{spec.label}: command: {error}") from None
    with command:
        log_verdict(spec.label, command.verdict, spec.verification)
        child, stream = await process.start(
            spec.plugin_name,
            command.words,
            plugin.environment,
            plugin.working_directory,
            news.output,
            executable=command.executable,
            descriptors=command.descriptors,
        )
    news.pid = child.pid
    log.info("%s started as pid %d for namespace %s", spec.label, child.pid, spec.namespace)
    nursery.start_soon(child.listen)
    try:
        async with _framed(spec, news, nursery, stream) as channel:
            yield channel
    except (ChannelError, LaunchError, CallError) as error:
        raise await _explain(child, error) from error
    finally:
        news.ending = await child.end(plugin.kill_timeout_seconds)
        log.info("%s (pid %d) %s", spec.label, child.pid, news.ending)


async def _explain(child: process.PluginProcess, error: Exception) -> LaunchError:
    """``error`` with how the process ended, and what it wrote: that is for operators alone."""
    message, crashed = str(error), getattr(error, "crashed", True)
    if await child.wait_ended(process.EXIT_PATIENCE):
        await child.wait_silent()
        if crashed:  # else it has said why itself, and went as it should
            message += f"; its process {child.ending}"
    # Where INFO is logged they were, as they came.
    if child.last_lines and not log.isEnabledFor(logging.INFO):
        lines = "\n    ".join(child.last_lines)
        log.warning("the last output of %r (pid %d):\n    %s", child.name, child.pid, lines)
    return LaunchError(message, output=child.last_lines, crashed=crashed)


@asynccontextmanager
async def _dialling_in(
    spec: InstanceSpec, news: News, listener: unix.UnixListener, nursery: trio.Nursery
) -> AsyncGenerator[PluginChannel, None]:
    stream, peer = await _accept(listener)
    news.pid = peer.pid
    log.info("%s dialled in on %s (%s)", spec.label, listener.path, peer)
    async with _framed(spec, news, nursery, stream) as channel:
        yield channel


async def _accept(
    listener: unix.UnixListener,
) -> tuple[trio.SocketStream, unix.PeerCredentials]:
    """The next plugin; strangers are turned away and do not count as its failures."""
    accepted = None
    try:
        async with trio.open_nursery() as nursery:

            async def give_up_when_removed() -> None:
                await listener.wait_removed()
                nursery.cancel_scope.cancel()

            nursery.start_soon(give_up_when_removed)
            while accepted is None:
                try:
                    accepted = await listener.accept()
                except ChannelError as error:
                    log.warning("%s", error)
                    await trio.sleep(PAUSE_AFTER_STRANGER)
            nursery.cancel_scope.cancel()
    except BaseException:
        if accepted is not None:
            await trio.aclose_forcefully(accepted[0])
        raise
    if accepted is None:
        raise LaunchError(f"the socket {listener.path} was removed")
    return accepted


@asynccontextmanager
async def _dialled(
    spec: InstanceSpec, news: News, nursery: trio.Nursery
) -> AsyncGenerator[PluginChannel, None]:
    plugin = spec.plugin
    path = Path(plugin.socket or "")
    with trio.move_on_after(plugin.start_timeout_seconds) as in_time:
        stream = await unix.dial(path, group=plugin.group)
    if in_time.cancelled_caught:
        raise LaunchError(f"{spec.label}: {path} did not accept in time")
    async with _framed(spec, news, nursery, stream) as channel:
        yield channel


@asynccontextmanager
async def _remote(
    spec: InstanceSpec, news: News, nursery: trio.Nursery
) -> AsyncGenerator[PluginChannel, None]:
    stream = await _dial_endpoint(spec)
    async with _framed(spec, news, nursery, stream) as channel:
        yield channel


@asynccontextmanager
async def _grpc(
    spec: InstanceSpec, news: News, nursery: trio.Nursery
) -> AsyncGenerator[PluginChannel, None]:
    stream = await _dial_endpoint(spec, protocols=["h2"])
    channel = GrpcChannel(
        stream,
        _settings(spec.plugin),
        authority=spec.plugin.endpoint or "",
        namespace=spec.namespace,
        name=spec.label,
        version=__version__,
        on_goaway=news.goaway,
    )
    try:
        await channel.handshake()
        nursery.start_soon(channel.run)
        yield channel
    finally:
        with trio.CancelScope(shield=True):
            await channel.aclose()


@asynccontextmanager
async def _websocket(
    spec: InstanceSpec, news: News, nursery: trio.Nursery
) -> AsyncGenerator[PluginChannel, None]:
    plugin = spec.plugin
    with trio.move_on_after(plugin.start_timeout_seconds) as in_time:
        stream = await websocket.dial(plugin.websocket_url, _tls_files(plugin), nursery)
    if in_time.cancelled_caught:
        raise LaunchError(f"{spec.label}: {plugin.endpoint} did not accept in time")
    async with _framed(spec, news, nursery, stream) as channel:
        yield channel


def _tls_files(plugin: PluginConfig) -> TLSFiles | None:
    if plugin.tls is None or not plugin.tls.enabled:
        return None
    files = plugin.tls
    return TLSFiles(files.ca_cert, files.cert, files.key, files.server_name)


async def _dial_endpoint(spec: InstanceSpec, protocols: Sequence[str] = ()) -> trio.abc.Stream:
    plugin = spec.plugin
    host, port = plugin.address
    with trio.move_on_after(plugin.start_timeout_seconds) as in_time:
        stream = await tcp.dial(host, port, _tls_files(plugin), protocols=protocols)
    if in_time.cancelled_caught:
        raise LaunchError(f"{spec.label}: {plugin.endpoint} did not accept in time")
    return stream
