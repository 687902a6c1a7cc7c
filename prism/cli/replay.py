"""``prism replay``: play recorded calls against another version, and compare the answers."""

import heapq
import json
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from prism.cli.connection import (
    CONNECT_TIMEOUT,
    Number,
    ca_cert_option,
    cert_option,
    credential_headers,
    say_unreachable,
    target_url,
    tls_context,
)
from prism.cli.output import (
    LINES,
    CommandError,
    end_on_interrupt,
    harmless,
    output_option,
    refused,
    show_one,
)
from prism.cli.shadow import latency, print_differences

if TYPE_CHECKING:
    from prism.calls.comparison import Answer, Ignored, Names
    from prism.observability.recording import Reader, RecordedCall

WINDOW = 1000
"""Lines among which the next call is the one that began first: a file has them by their ends."""
LONGEST = 60.0
"""Seconds that an answer is waited for."""

EPILOG = """\b
Examples:
  prism replay kv.jsonl --against http://127.0.0.1:50051 kv
  prism replay kv.jsonl --plugin-config '{"path": "copy.db"}' -- python -m prism_plugins.sqlite

\b
Calls that may write are left out unless --writes is given. Of a recording whose values are
redacted, the answers cannot be compared: that all calls are answered, and how fast, is told.
Exit status: 0 all answers are equal, 1 some differ or did not come, 2 wrong usage, or there
is no such namespace.
"""


@click.command(epilog=EPILOG)
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.option(
    "--against",
    nargs=2,
    metavar="URL NAMESPACE",
    help="Play them against a namespace of the proxy whose data port this is.",
)
@click.option(
    "--plugin-config",
    metavar="JSON",
    default="{}",
    help="The config of a plugin that COMMAND starts; @FILE reads it from a file.",
)
@click.option(
    "--plugin-credentials",
    metavar="FILE",
    help="File with a JSON object: the credentials of that plugin.",
)
@click.option("--writes", is_flag=True, help="Play calls, too, that may change something.")
@click.option("--ignore", multiple=True, metavar="PATH", help="Do not compare items[*].updated_at.")
@click.option("--concurrency", type=click.IntRange(1, 1000), default=8, show_default=True)
@click.option("--rate", type=Number(0, min_open=True), help="Calls a second, at most.")
@click.option("--show-values", is_flag=True, help="Show values that differ, and all keys.")
@click.option(
    "--key-file",
    metavar="FILE",
    envvar="PRISM_KEY_FILE",
    show_envvar=True,
    help="File with an API key, or another bearer token, to show.",
)
@ca_cert_option
@cert_option
@output_option
def replay(
    file: str,
    command: tuple[str, ...],
    against: tuple[str, str] | None,
    plugin_config: str,
    plugin_credentials: str | None,
    writes: bool,
    ignore: tuple[str, ...],
    concurrency: int,
    rate: float | None,
    show_values: bool,
    key_file: str | None,
    ca_cert: str | None,
    cert: str | None,
    output: str,
) -> None:
    """Play recorded calls again, and compare.

    The calls in FILE: against a namespace of a running proxy (--against), or against a plugin that
    is started for it.
    """
    import trio

    from prism.calls.comparison import Ignored
    from prism.observability.recording import Reader

    if bool(command) == (against is not None):
        raise click.UsageError("say --against URL NAMESPACE, or -- and the command of a plugin")
    try:
        ignored = Ignored(ignore)
    except ValueError as error:
        raise click.UsageError(f"--ignore: {error}") from None
    if against is not None:
        url, namespace = against
        target_url(url, namespace, "any")  # refuses names that are none
        headers = credential_headers(key_file)
        target: Target = ProxyTarget(url, namespace, headers, ca_cert, cert)
        _warn_if_recorded(Path(file), namespace)
    else:
        config, credentials = _settings(plugin_config), _credentials(plugin_credentials)
        target = PluginTarget(list(command), config, credentials)
        _show_log()
    played = Replay(Reader(Path(file)), target, ignored, writes=writes, show_values=show_values)
    end_on_interrupt()  # a plugin that was started ends, too: it has a guardian
    try:
        trio.run(played.run, concurrency, rate)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror or error}") from None
    report = played.report(file)
    if output == "table":
        show_one(_head(report), output)
        print_differences(report["differences"], report["other_differences"], report["recent"])
    else:
        show_one(report, output)
    if not report["played"]:
        click.echo(f"prism: {_nothing(report)}", err=True)
    sys.exit(0 if report["is_equal"] else 1)


class _Harmless(logging.Formatter):
    """What is logged of a plugin has text of the plugin in it."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record), keep=LINES)


def _show_log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Harmless())
    logging.getLogger().addHandler(handler)


def _warn_if_recorded(file: Path, namespace: str) -> None:
    from prism.observability.audit_reading import is_written

    try:
        is_recorded = is_written(file)
    except OSError:  # which is said when it is read
        return
    if is_recorded:
        click.echo(
            f"prism: a proxy is recording to {file}: where that is namespace {namespace}, these "
            "calls are added to it, too; replay a copy, or without `record`",
            err=True,
        )


def _settings(text: str) -> str:
    """JSON, as it is or in a file."""
    if text.startswith("@"):
        text = _read("--plugin-config", text[1:])
    _object("--plugin-config", text)
    return text


def _credentials(file: str | None) -> dict[str, str]:
    if file is None:
        return {}
    found = _object(f"--plugin-credentials: {file}", _read("--plugin-credentials", file))
    if not all(isinstance(each, str) for each in found.values()):
        raise click.UsageError(f"--plugin-credentials: {file}: expected texts as values")
    return found


def _read(option: str, file: str) -> str:
    try:
        return Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise click.UsageError(f"{option}: cannot read {file}: {reason}") from None


def _object(what: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:  # which say where, and show nothing of it
        raise click.UsageError(f"{what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.UsageError(f"{what} is no JSON object")
    return found


def _nothing(report: dict[str, Any]) -> str:
    if report["skipped_writes"]:
        return "every call in the recording may write; --writes plays them"
    return f"there is no recorded call in {report['file']}"


def _head(report: dict[str, Any]) -> dict[str, Any]:
    named = ("file", "against", "played", "skipped_writes", "skipped_lines", "unanswered")
    found = {name: report[name] for name in named}
    found |= report["outcomes"] if report["compared"] else {"compared": "no: values are redacted"}
    for name in ("latency_then", "latency_now"):
        found[name] = latency(report[name])
    return found


# -- what answers -----------------------------------------------------------------------


class Target(Protocol):
    """Where calls are played."""

    name: str

    @asynccontextmanager
    def open(self, namespace: str) -> AsyncIterator[None]:
        """Within it calls can be made; ``namespace`` is the recorded one. Raises CommandError."""

    async def call(self, call: "RecordedCall") -> "Answer | None":
        """What comes of the call; None: nothing, since it could not be made."""

    def names(self, operation: str) -> "Names":
        """The names that the operation's schemas declare."""


class ProxyTarget:
    """A namespace of a running proxy."""

    def __init__(
        self,
        url: str,
        namespace: str,
        headers: dict[str, str],
        ca_cert: str | None,
        cert: str | None,
    ) -> None:
        self.name = f"{url} {namespace}"
        self._url = url
        self._namespace = namespace
        self._headers = headers
        self._ca_cert = ca_cert
        self._tls = tls_context(ca_cert, cert)
        self._client: Any = None
        self._operations: dict[str, Any] = {}
        self._names: dict[str, Names] = {}

    @asynccontextmanager
    async def open(self, namespace: str) -> AsyncIterator[None]:
        """Have a client. One that reaches nobody is told at the first call."""
        import httpx

        async with httpx.AsyncClient(
            http1=self._url.startswith("https:"),
            http2=True,
            verify=self._tls or True,
            timeout=httpx.Timeout(LONGEST, connect=CONNECT_TIMEOUT),
            trust_env=False,
        ) as self._client:
            await self._ask()
            yield

    async def _ask(self) -> None:
        """What the namespace has, before the first call: else each would say that it has none."""
        import httpx

        url = f"{self._url.rstrip('/')}/v1/{self._namespace}"
        try:
            response = await self._client.get(url, headers=self._headers)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            say_unreachable(self._url, error, self._ca_cert)
            sys.exit(1)
        if not response.is_success:
            click.echo(refused(response.status_code, response.text), err=True)
            sys.exit(2)
        try:
            operations = response.json()["operations"]
        except (ValueError, KeyError, TypeError):
            operations = None
        if not isinstance(operations, dict):
            click.echo(f"prism: {url} is no namespace of a proxy's data port", err=True)
            sys.exit(2)
        self._operations = operations

    def names(self, operation: str) -> "Names":
        """As the proxy describes the operation."""
        from prism.calls.comparison import names_in

        found = self._names.get(operation)
        if found is None:
            declared = self._operations.get(operation) or {}
            schemas = (declared.get("params"), declared.get("result"))
            found = self._names[operation] = names_in(schemas)
        return found

    async def call(self, call: "RecordedCall") -> "Answer | None":
        """POST it."""
        import httpx
        import trio

        from prism.calls.comparison import Answer
        from prism.contract.status import StatusCode

        raw = call.params_raw
        kind = "application/msgpack" if raw else "application/json"
        headers = {"content-type": kind, "accept": kind, **self._headers}
        url = target_url(self._url, self._namespace, call.operation)
        began = trio.current_time()
        try:
            response = await self._client.post(
                url, content=raw or bytes(call.params), headers=headers
            )
        except httpx.HTTPError:
            return None
        seconds = trio.current_time() - began
        if response.is_success:
            if raw:
                return Answer(StatusCode.OK, raw=response.content, seconds=seconds)
            return Answer(StatusCode.OK, response.text, seconds=seconds)
        try:
            status = StatusCode[response.json()["code"]]
        except (ValueError, KeyError, TypeError):
            return None
        return Answer(status, seconds=seconds)


class PluginTarget:
    """A plugin that is started for it, and supervised as the proxy would."""

    def __init__(self, command: list[str], config: str, credentials: dict[str, str]) -> None:
        self.name = " ".join(command)
        self._command = command
        self._config = config
        self._credentials = credentials
        self._slot: Any = None
        self._names: dict[str, Names] = {}

    @asynccontextmanager
    async def open(self, namespace: str) -> AsyncIterator[None]:
        """Have the plugin run."""
        import trio

        from prism.config.types import PluginConfig
        from prism.supervision.instance import InstanceSpec
        from prism.supervision.supervisor import Supervisor

        async def credentials() -> dict[str, str]:
            return self._credentials

        spec = InstanceSpec(
            namespace=namespace,
            backend="replay",
            plugin_name="replayed",
            plugin=PluginConfig(type="sidecar", command=self._command),
            config_json=self._config,
            credentials=credentials,
        )
        supervisor = Supervisor([spec])
        slot = self._slot = supervisor.slots[namespace]
        absence = ""
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            absence = slot.absence if slot.current is None else ""
            try:
                if not absence:
                    yield
            finally:
                supervisor.stop()
                with trio.CancelScope(shield=True):  # bounded: it is killed in the end
                    await supervisor.wait_stopped()
        if absence:
            raise CommandError(f"the plugin does not serve: {absence}")

    async def call(self, call: "RecordedCall") -> "Answer | None":
        """Give it to the plugin."""
        import trio

        from prism.calls.comparison import Answer
        from prism.contract.errors import CallError
        from prism.contract.messages import ExecuteRequest
        from prism.contract.service import NAMESPACE_KEY, PRINCIPAL_KEY, REQUEST_ID_KEY
        from prism.contract.status import StatusCode

        instance = self._slot.current
        if instance is None:
            return None
        if call.operation not in instance.operations:
            return Answer(StatusCode.UNIMPLEMENTED)
        request = ExecuteRequest(
            operation=call.operation,
            params_json="" if call.params_raw else bytes(call.params).decode(),
            params_raw=call.params_raw,
            metadata={
                NAMESPACE_KEY: call.namespace,
                PRINCIPAL_KEY: "replay",
                REQUEST_ID_KEY: call.id,
                **call.metadata,
            },
        )
        began = trio.current_time()
        try:
            with trio.fail_after(LONGEST):
                response = await instance.channel.execute(request)
        except CallError as error:
            return Answer(error.status, seconds=trio.current_time() - began)
        except trio.TooSlowError:
            return Answer(StatusCode.DEADLINE_EXCEEDED, seconds=LONGEST)
        seconds = trio.current_time() - began
        if response.success:
            return Answer(StatusCode.OK, response.result_json, response.result_raw, seconds)
        status = StatusCode.from_wire(response.error_code) or StatusCode.UNKNOWN
        return Answer(status, seconds=seconds)

    def names(self, operation: str) -> "Names":
        """As the plugin declares them."""
        from prism.calls.comparison import declared_names

        found = self._names.get(operation)
        if found is None:
            declared = self._slot.operations.get(operation)
            found = self._names[operation] = declared_names(declared)
        return found


# -- the replay -------------------------------------------------------------------------


class Replay:
    """Plays what ``reader`` reads against ``target``, once; ``report`` says how it went."""

    def __init__(
        self,
        reader: "Reader",
        target: Target,
        ignored: "Ignored",
        *,
        writes: bool,
        show_values: bool,
    ) -> None:
        from prism.calls.comparison import Tally

        self.tally: Tally = Tally()
        self.played = 0
        self.skipped_writes = 0
        self.unanswered = 0
        self.compares = True
        self._reader = reader
        self._target = target
        self._ignored = ignored
        self._writes = writes
        self._show_values = show_values
        self._due = 0.0

    async def run(self, concurrency: int, rate: float | None) -> None:
        """Play all calls: ``concurrency`` at a time, ``rate`` a second at most.

        Raises:
            OSError: the recording cannot be read.
            CommandError: the target cannot be reached.
        """
        import trio

        calls = self._wanted()
        first = next(calls, None)
        if first is None:
            return
        self._due = trio.current_time()
        async with self._target.open(first.namespace), trio.open_nursery() as nursery:
            waiting = _and_then(first, calls)
            for _ in range(concurrency):
                nursery.start_soon(self._play_some, waiting, rate)

    async def _play_some(self, calls: "Iterator[RecordedCall]", rate: float | None) -> None:
        import trio

        for call in calls:
            if rate is not None:
                self._due = due = max(self._due + 1 / rate, trio.current_time())
                await trio.sleep_until(due)
            await self._play(call)

    async def _play(self, call: "RecordedCall") -> None:
        from prism.calls.comparison import ALL_NAMES, ResultDifference, compare

        self.played += 1
        new = await self._target.call(call)
        if new is None:
            self.unanswered += 1
            return
        old = _recorded_answer(call)
        found: list[ResultDifference] = []
        if call.redacted:
            self.compares = False
        else:
            names = ALL_NAMES if self._show_values else self._target.names(call.operation)
            found = compare(old, new, self._ignored, names, show_values=self._show_values)
        self.tally.add(call.operation, call.id, old, new, found, call.time)

    def _wanted(self) -> "Iterator[RecordedCall]":
        """The calls to play, by when they began as far as ``WINDOW`` lines show."""
        window: list[tuple[float, int, RecordedCall]] = []
        for number, call in enumerate(self._reader.calls()):
            if call.writes and not self._writes:
                self.skipped_writes += 1
                continue
            heapq.heappush(window, (call.time, number, call))
            if len(window) > WINDOW:
                yield heapq.heappop(window)[2]
        while window:
            yield heapq.heappop(window)[2]

    def report(self, file: str) -> dict[str, Any]:
        """All of it, as plain data."""
        import msgspec

        tally = self.tally
        then, now = tally.latencies
        outcomes = {
            name: tally.outcomes[name]
            for name in ("equal", "different", "only_old_failed", "only_new_failed")
        }
        is_equal = self.played > 0 and not self.unanswered
        if self.compares:
            is_equal = is_equal and outcomes["equal"] == self.played
        return {
            "file": file,
            "against": self._target.name,
            "is_equal": is_equal,
            "compared": self.compares,
            "played": self.played,
            "skipped_writes": self.skipped_writes,
            "skipped_lines": self._reader.skipped,
            "unanswered": self.unanswered,
            "outcomes": outcomes,
            "latency_then": msgspec.to_builtins(then),
            "latency_now": msgspec.to_builtins(now),
            "differences": msgspec.to_builtins(tally.groups),
            "other_differences": tally.other_differences,
            "recent": msgspec.to_builtins(list(tally.recent)),
        }


def _and_then(first: "RecordedCall", rest: "Iterator[RecordedCall]") -> "Iterator[RecordedCall]":
    yield first
    yield from rest


def _recorded_answer(call: "RecordedCall") -> "Answer":
    from prism.calls.comparison import Answer
    from prism.contract.status import StatusCode

    status = StatusCode[call.status] if call.status in StatusCode.__members__ else None
    if status is not StatusCode.OK:
        return Answer(status or StatusCode.UNKNOWN, seconds=call.seconds)
    text = "" if call.result_raw else bytes(call.result).decode()
    return Answer(StatusCode.OK, text, call.result_raw, call.seconds)
