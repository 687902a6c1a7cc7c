"""``prism serve``: run the proxy."""

import gc
import os
import shlex
import shutil
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from prism.cli.demo import BACKENDS, KINDS, SERVER, TOKEN, Demo, demo, make_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prism.app import Ready
    from prism.config import LoadedConfig
    from prism.config.types import Config, NamespaceConfig
    from prism.process.handover import Predecessor
    from prism.process.sockets import GivenSocket

DESCRIPTOR = click.IntRange(0)
FORCED = 3
"""Exit status after a second signal."""

GC_THRESHOLD = 10_000
"""Containers made between two searches for cycles of them. Some hundred calls in flight have
as many alive, which the default of 700 takes for garbage, and hardly a call leaves a cycle."""

EPILOG = """\b
Examples:
  prism serve                          a `demo` namespace on SQLite, in ./prism.db,
                                       and a token to operate it, in ./prism.token
  prism serve --demo postgres          the same on PostgreSQL on this machine
  prism serve --demo kafka --server broker-1:9092,broker-2:9092
  prism serve --config prism.yaml
  prism serve --port 8080 --admin-port 0

SIGTERM or Ctrl-C finishes what is in flight and exits with 0; a second one ends
at once, with 3. SIGHUP reads the configuration and the TLS files again. SIGUSR2 starts
a successor on the same sockets, and ends when it serves: a rolling restart
(docs/operations.md).
"""


class _Serve(click.Command):
    """The command; where ``make serve`` runs it, it says how make passes options on."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """As any command's."""
        with _under_make():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """As any command's."""
        with _under_make():
            return super().invoke(ctx)


@contextmanager
def _under_make() -> "Iterator[None]":
    try:
        yield
    except click.UsageError as error:
        if "MAKELEVEL" not in os.environ:
            raise
        raise click.UsageError(
            f"{error.format_message()}\nmake passes options on in ARGS, in quotes: "
            "make serve ARGS='--port 8080'; a configuration is CONFIG=FILE",
            error.ctx,
        ) from error


# A file's name without --config is taken, to be told what it is for.
@click.command(cls=_Serve, epilog=EPILOG, context_settings={"allow_extra_args": True})
@click.option(
    "--config",
    "-c",
    "file",
    metavar="FILE",
    envvar="PRISM_CONFIG",
    show_envvar=True,
    help="Configuration (docs/configuration.md); without one, a demo.",
)
@click.option(
    "--demo",
    "backend",
    type=click.Choice(BACKENDS),
    help="Serve a demo on this backend; on sqlite without --config.",
)
@click.option(
    "--server",
    metavar="URL",
    envvar=SERVER,
    show_envvar=True,
    help="The demo's server (for kafka HOST:PORT,...), if not this machine's at the usual port.",
)
@click.option("--watch", is_flag=True, help="Apply the configuration whenever its file changes.")
@click.option("--port", type=click.IntRange(0, 65535), help="Data port; 0 takes a free one.")
@click.option("--admin-port", type=click.IntRange(0, 65535), help="Admin port; 0 takes a free one.")
@click.option(
    "--fd", "data_fds", multiple=True, type=DESCRIPTOR, help="Inherited socket for the data port."
)
@click.option(
    "--admin-fd",
    "admin_fds",
    multiple=True,
    type=DESCRIPTOR,
    help="Inherited socket for the admin port.",
)
@click.option(
    "--pid-file", metavar="FILE", help="Write the pid of the process that serves into FILE."
)
def serve(
    file: str | None,
    backend: str | None,
    server: str | None,
    watch: bool,
    port: int | None,
    admin_port: int | None,
    data_fds: tuple[int, ...],
    admin_fds: tuple[int, ...],
    pid_file: str | None,
) -> None:
    """Run the proxy until SIGTERM or Ctrl-C."""
    from prism.contract.errors import PrismError
    from prism.process import sockets
    from prism.process.handover import take_over

    if extra := click.get_current_context().args:
        raise click.UsageError(
            f"unexpected argument {extra[0]!r}; a configuration is named with --config FILE"
        )
    if watch and file is None:
        raise click.UsageError("--watch needs a file to watch: --config FILE")
    shown = _demo(file, backend, server)
    handover = take_over(os.environ)
    if handover is not None:
        predecessor, given = handover
    else:
        if shown is not None:
            shown.check()
        predecessor, given = None, sockets.from_service_manager(os.environ)
        given += [sockets.from_descriptor(number, "data") for number in data_fds]
        given += [sockets.from_descriptor(number, "admin") for number in admin_fds]
    try:
        with _pid_file(pid_file) as serving:
            graceful = _run(file, shown, watch, port, admin_port, given, predecessor, serving)
    except PrismError as error:
        if predecessor is None:
            raise
        predecessor.failed(str(error))  # and is the one to log it
        sys.exit(1)
    sys.exit(0 if graceful else FORCED)


def _demo(file: str | None, backend: str | None, server: str | None) -> Demo | None:
    """What is served where no file says what."""
    sources = click.get_current_context().get_parameter_source
    if sources("server") == ParameterSource.ENVIRONMENT and backend not in KINDS:
        server = None  # nobody has asked for it here
    if file is None:
        return demo(backend or "sqlite", server, os.environ)
    if backend is not None or server is not None:
        named = "PRISM_CONFIG" if sources("file") == ParameterSource.ENVIRONMENT else "--config"
        option = "--server" if backend is None else "--demo"
        raise click.UsageError(f"{option} is for a demo, and {named} names {file}")
    return None


def _run(
    file: str | None,
    shown: Demo | None,
    watch: bool,
    port: int | None,
    admin_port: int | None,
    given: "Sequence[GivenSocket]",
    predecessor: "Predecessor | None",
    serving: "Callable[[], None]",
) -> bool:
    from prism.process import core_dumps
    from prism.process.descriptors import raise_limit

    raise_limit()  # before anything takes some
    core_dumps.leave_none()

    import trio

    from prism.config.sources import FileWatch
    from prism.contract.errors import PrismError
    from prism.observability.logs import setup_logging
    from prism.process.memory import give_back_unused, reuse_large_blocks
    from prism.signals import run_until_signalled

    load = loaded = None
    watched = FileWatch(file) if watch and file is not None else None  # before it is read
    if shown is not None:
        config = _with_ports(shown.config, port, admin_port)
    else:
        assert file is not None  # noqa: S101 - or there is a demo
        load = partial(_load, file, port, admin_port)
        loaded = load()
        config = loaded.config
        for warning in loaded.warnings:
            click.echo(f"warning: {warning}", err=True)
    if not given:
        _check_ports(config)
    setup_logging(config.log.level, config.log.format)
    reused = reuse_large_blocks()

    def on_ready(ready: "Ready") -> None:
        # What is here now stays: no search for cycles need look at it again.
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        if reused:
            trio.lowlevel.spawn_system_task(give_back_unused)
        serving()
        _say(start_message(config, ready, shown))

    token = make_token() if shown is not None else None
    try:
        return trio.run(
            run_until_signalled, config, on_ready, given, predecessor, load, watched, file or ""
        )
    except PrismError as error:
        if token is not None:
            token.unlink()  # nothing has been served
        if loaded is None:
            raise
        from prism.control.machine import located

        raise located(loaded, error) from error


@contextmanager
def _pid_file(path: str | None) -> "Iterator[Callable[[], None]]":
    """What to call when this process serves; at the end the file goes."""
    from prism.process.pid_file import PidFile

    if path is None:
        yield lambda: None
        return
    pid_file = PidFile(path)
    try:
        yield pid_file.write
    finally:
        pid_file.remove()


def _load(file: str, port: int | None, admin_port: int | None) -> "LoadedConfig":
    """The file, with the ports of the command line; its plugins are looked for beside it."""
    from dataclasses import replace

    from prism.config import load_config
    from prism.supervision.loading import look_in

    loaded = load_config(file)
    if any(_has_only_a_name(namespace, loaded.config) for namespace in loaded.config.namespaces):
        look_in(Path(file).absolute().parent)
    return replace(loaded, config=_with_ports(loaded.config, port, admin_port))


def _with_ports(config: "Config", port: int | None, admin_port: int | None) -> "Config":
    from msgspec.structs import replace

    if port is not None:
        config = replace(config, listen=replace(config.listen, port=port))
    if admin_port is not None:
        config = replace(config, admin=replace(config.admin, port=admin_port))
    return config


def _check_ports(config: "Config") -> None:
    """That the command line's ports do not clash; raises ConfigError, as a file's do."""
    from prism.config.errors import ConfigError, ConfigProblem

    listen, admin = config.listen, config.admin
    if admin.enabled and listen.port == admin.port != 0 and listen.address == admin.address:
        why = f"port {admin.port} is already that of `listen`"
        raise ConfigError([ConfigProblem("the command line", 0, 0, "admin.port", why)])


def _has_only_a_name(namespace: "NamespaceConfig", config: "Config") -> bool:
    """Whether its plugin is a Python module, and nothing says where that lies."""
    from prism.config import resolve_plugin

    plugin = resolve_plugin(config, namespace)
    return plugin.module is not None and plugin.path is None


def _say(text: str) -> None:
    """Print, and flush: a reader behind a pipe must not wait for the buffer."""
    try:
        click.echo(text)
    except OSError:  # nobody reads it, which is no reason not to serve
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # what is left in the buffer goes there at exit
        os.close(nowhere)


def this_program() -> str:
    """How it was started, so that a command which is printed can be run as it stands."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return shlex.join([sys.executable, "-m", "prism"])
    is_on_path = shutil.which(started.name) == str(started)  # whose full name the shell gave
    return started.name if is_on_path else shlex.quote(str(started))


def start_message(config: "Config", ready: "Ready", shown: Demo | None) -> str:
    """What a started proxy says on standard output."""
    from prism.config.types import AdminConfig

    count = len(config.namespaces)
    where = ", ".join(str(address) for address in ready.data)
    state = f", {count - len(ready.waiting)} ready," if ready.waiting else ""
    lines = [f"Prism serves {count} namespace{'' if count == 1 else 's'}{state} on {where}"]
    if ready.admin:
        admin = ready.admin[0]
        where = f"{admin}/metrics, /readyz" if admin.port else f"{admin}: /metrics, /readyz"
        lines.append(f"Metrics and health on {where}")
    if shown is not None:
        base = f"{ready.data[0]}/v1/demo"
        if ready.waiting:
            why = ready.problems.get("demo") or "the log says why"
            return "\n".join((
                *lines,
                f"Namespace demo, in {shown.place}, cannot be served: {why}",
                f"It is tried again and again. {shown.way_out}",
            ))  # fmt: skip
        lines += [f"Namespace demo keeps its data in {shown.place}. Try:", ""]
        for operation, params in shown.calls:
            lines.append(f"  curl --http2-prior-knowledge -d '{params}' {base}/{operation}")
        if ready.admin:
            url = f" --url {ready.admin[0]}" if ready.admin[0].port != AdminConfig().port else ""
            lines.append(f"  {this_program()} plugin reload demo --token-file {TOKEN}{url}")
        lines.append("")
    return "\n".join(lines)
