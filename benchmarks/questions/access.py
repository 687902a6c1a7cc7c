"""What does it cost to know who calls, to see what they may do, and to write it down?

First of a call that is proxied: the same load, with the same credential in its header, on a proxy
that does not look at it, on one that authenticates and authorizes, and on one that has an audit
log, too. The credential is known by then, as those of all calls but the first are. Then each part
alone, in this process: with many principals, namespaces and rules; a token that was never seen
before; and the audit log at the rate of a very busy proxy.
"""

import gc
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from joserfc import jwt
from joserfc.jwk import RSAKey

from benchmarks.effort import Effort
from benchmarks.lineup import Lineup
from benchmarks.load.target import JSON, Target
from benchmarks.processes import children
from benchmarks.report.page import Section
from benchmarks.report.tables import absent, load_table, microseconds_each, table, verdict
from benchmarks.samples import Load, percentile, take_turns
from benchmarks.sides import prism
from prism.access.api_keys import create_key
from prism.access.authentication import Authentication
from prism.access.identity import Identity
from prism.access.issuer_keys import IssuerKeys
from prism.access.permissions import READ, AccessTable
from prism.access.tokens import Issuer, judge_token
from prism.calls.call import Call
from prism.config.types import AccessRule, JWTIssuerConfig, NamespaceAccess
from prism.observability.audit import AuditLog
from prism.streams.outlet import begin_turn, end_turn
from prism.streams.tasks import TaskPool

BUSY = Load(64)
KEY, TOKEN = "API key", "JWT"
LEVELS = UNSEEN, ALLOWED, AUDITED = "not looked at", "and access", "and access and audit"
PRINCIPALS, NAMESPACES, RULES = 10_000, 1_000, 1_000
LINES_PER_SECOND = 100_000
TURN = 0.001
"""Seconds: a busy loop's turn, at the end of which it hands its records over."""
LATE = 0.01
"""Seconds after which a call would notice that the loop was held up."""
ISSUER = "https://idp.example.com"


def measure(effort: Effort) -> Section:
    names = {
        (kind, level, compiled): f"{kind} {level}{', compiled' if compiled else ''}"
        for compiled in (False, True)
        for kind in (KEY, TOKEN)
        for level in LEVELS
    }
    with Lineup() as lineup:
        for (kind, level, compiled), name in names.items():
            lineup.add(name, _proxy(kind, level, compiled=compiled))
        results = take_turns(lineup.sides, [BUSY], rounds=effort.rounds, seconds=effort.seconds)
    spent = microseconds_each(lambda sample: sample.cpu)
    text = [
        load_table(results, lineup.sides, [BUSY], servers=("proxy", "plugin")),
        "",
        *absent(lineup.missing | results.failed),
    ]
    for (kind, level, compiled), name in names.items():
        if level == UNSEEN:
            continue
        other = names[kind, UNSEEN, compiled]
        what = f"CPU time of the proxy per call, {name} / {other}"
        found = results.ratio(name, other, BUSY, spent)
        if level == AUDITED:
            text.append(verdict(what, found, 1.1, at_least=False))
        elif found is not None:
            text.append(f"- {what}: **{found:.2f}**")
    text += ["", *_many(effort), "", *_cold(effort), "", *_audit(effort)]
    return Section("\n".join(text), failed=results.failed)


@contextmanager
def _proxy(kind: str, level: str, *, compiled: bool) -> Iterator[Target]:
    """A proxy before a spawned echo plugin, called with a credential of that kind."""
    with tempfile.TemporaryDirectory() as name, _issuer(Path(name)) as (token, keys_url):
        folder = Path(name)
        key, _ = create_key(folder / "keys.yaml", "ada", ["billing"])
        namespace = prism.echo("echo", prism.SPAWNED)
        settings: dict[str, Any] = {}
        if level != UNSEEN:
            issuer = {"issuer": ISSUER, "audience": "prism", "algorithms": ["RS256"]}
            settings["authentication"] = {
                "api_keys": {"file": str(folder / "keys.yaml")},
                "jwt": [issuer | {"jwks_url": keys_url}],
            }
            rule = {"who": ["group:billing"], "permissions": ["read", "write"]}
            namespace["access"] = {"allow": [rule]}
        if level == AUDITED:
            settings["audit"] = {"file": str(folder / "audit.jsonl")}
        shown = ("authorization", f"Bearer {key if kind == KEY else token}")
        codec = prism.fastest_codec()
        with prism.prism(folder, [namespace], codec, settings, compiled=compiled) as (pid, url):
            (spawned,) = children(pid, prism.ECHO_PLUGIN)
            yield Target(f"{url}/v1/echo/echo", [pid], [spawned], headers=(*JSON, shown))


@contextmanager
def _issuer(folder: Path) -> Iterator[tuple[str, str]]:
    """A token, and where the keys are that it is verified with."""
    key = RSAKey.generate_key(2048, {"kid": "1"})
    (folder / "keys.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}))

    class Files(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder))) as files:
        serving = threading.Thread(target=files.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield _tokens(key, 1)[0].decode(), f"http://127.0.0.1:{files.server_port}/keys.json"
        finally:  # a side that is not there raises here
            files.shutdown()
            serving.join()


def _tokens(key: RSAKey, number: int) -> list[bytes]:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": "prism", "groups": ["billing"], "iat": now, "exp": now + 3600}
    head = {"alg": "RS256", "kid": "1", "typ": "at+jwt"}
    return [
        jwt.encode(head, {**claims, "sub": f"ada-{each}"}, key).encode() for each in range(number)
    ]


# -- each part alone -----------------------------------------------------------------


def _best(effort: Effort, work: Callable[[], int]) -> float:
    """Microseconds for each of what ``work`` returns the number of: the best of the rounds, which
    nothing has disturbed."""
    each = []
    gc.collect()
    for _ in range(effort.rounds):
        began = time.process_time()
        number = work()
        each.append((time.process_time() - began) / number * 1e6)
    return min(each)


class _Crowd(NamedTuple):
    """Who calls what: headers and tables, each as many as there are."""

    authentication: Authentication
    headers: list[list[tuple[bytes, bytes]]]
    tables: list[AccessTable]

    def calls(self, number: int) -> int:
        """``number`` calls: who it is, and whether they may; each principal calls a namespace
        of its own."""
        identify = self.authentication.identify
        pairs = zip(cycle(self.headers), cycle(self.tables), strict=False)
        for headers, access in islice(pairs, number):
            access.check(identify(headers), "get", READ)
        return number


def _crowd(principals: int, namespaces: int, rules: int) -> _Crowd:
    """Everybody's credential is known. The rules that say what they may come last."""
    authentication = Authentication()
    headers = []
    for number in range(principals):
        value = b"Bearer prism_%012x_%064x" % (number, number)
        headers.append([(b"content-type", b"application/json"), (b"authorization", value)])
        identity = Identity(f"principal-{number}", frozenset({"billing"}))
        # As if it had been judged.
        now = time.time()
        authentication._known[value] = identity, now, now + 3600  # noqa: SLF001
    others = [AccessRule(who=[f"group:g{each}"], permissions=["read"]) for each in range(rules - 1)]
    allow = [*others, AccessRule(who=["group:billing"], permissions=["read"])]
    tables = [AccessTable(f"ns-{each}", NamespaceAccess(allow=allow)) for each in range(namespaces)]
    return _Crowd(authentication, headers, tables)


def _many(effort: Effort) -> list[str]:
    calls = 2_000 if effort.quick else 50_000
    # A million rules take a while to make into tables.
    share = 20 if effort.quick else 1
    principals, namespaces, rules = (n // share for n in (PRINCIPALS, NAMESPACES, RULES))
    small, large = _crowd(1, 1, 1), _crowd(principals, namespaces, rules)
    large.calls(principals)
    few, many = (_best(effort, partial(crowd.calls, calls)) for crowd in (small, large))
    rows = [
        ["one principal, one namespace, one rule", f"{few:.2f}"],
        [
            f"{principals:,} principals, {namespaces:,} namespaces, {rules:,} rules in each",
            f"{many:.2f}",
        ],
    ]
    return [
        table(["who it is and what they may, in turn", "CPU µs"], rows),
        "",
        verdict("What many cost more than one", many - few, 1, at_least=False, unit=" µs"),
    ]


class _Known:
    """Keys that are there."""

    def __init__(self, key: RSAKey) -> None:
        self._key = key

    def find(self, _key_id: str | None, _algorithm: str) -> RSAKey:
        return self._key


def _cold(effort: Effort) -> list[str]:
    """Tokens that were never seen before, RS256 with 2048 bits."""
    key = RSAKey.generate_key(2048, {"kid": "1"})
    config = JWTIssuerConfig(
        issuer=ISSUER, audience="prism", jwks_url="https://unused", algorithms=["RS256"]
    )
    public = RSAKey.import_key(key.as_dict(private=False))
    issuers = {ISSUER: Issuer(config, cast("IssuerKeys", _Known(public)))}
    tokens = _tokens(key, 20 if effort.quick else 300)

    def judge() -> int:
        now = time.time()
        for token in tokens:
            judge_token(token, issuers, now)
        return len(tokens)

    found = _best(effort, judge) / 1000
    return [verdict("A token that is new, RS256", found, 0.3, at_least=False, unit=" ms")]


class _Ended(Call):
    """A call that has ended well, of which the log asks nothing that a front end would do: what
    ``Call`` leaves to those is not there."""

    def __init__(self) -> None:
        super().__init__(0.0, cast("TaskPool", None))
        self.namespace, self.operation, self.request_id = "echo", "echo", "0" * 32
        self.plugin_seconds, self.http_status, self.instance_id = 0.001, 200, "echo/1"

    def read_params(self, limit: int) -> bool:
        raise NotImplementedError

    def send_result(self, result: bytes, content_type: bytes) -> None:
        raise NotImplementedError

    def send_error(self, error: Exception) -> None:
        raise NotImplementedError

    def observe(self) -> None:
        raise NotImplementedError


def _audit(effort: Effort) -> list[str]:
    """Records at a fixed rate, handed over in turns as an event loop does."""
    seconds = 0.2 if effort.quick else 5.0
    call = _Ended()
    identity = Identity("ada", frozenset({"billing"}), key="0123456789ab")
    access = AccessTable(
        "echo", NamespaceAccess(allow=[AccessRule(who=["group:billing"], permissions=["read"])])
    )
    call.identity, call.needs, call.decision = identity, READ, access.check(identity, "echo", READ)
    each = round(LINES_PER_SECOND * TURN)
    late: list[float] = []
    refused = 0
    with tempfile.TemporaryDirectory() as name:
        log = AuditLog(Path(name) / "audit.jsonl")
        log.start()
        began, busy = time.perf_counter(), time.process_time()
        for turn in range(round(seconds / TURN)):
            due = began + turn * TURN
            while (left := due - time.perf_counter()) > 0:
                time.sleep(left)
            begin_turn(0.0)
            for _ in range(each):
                refused += bool(log.refusal())
                log.add(call, 0.001)
            end_turn()
            late.append(time.perf_counter() - due)
        handed_over = time.perf_counter() - began
        log.close()
        busy = time.process_time() - busy
    number = len(late) * each
    late.sort()
    rows = [
        ["lines handed over each second", f"{number / handed_over:,.0f}"],
        ["lines written", f"{log.written:,} of {number:,}"],
        ["lost", f"{log.lost:,}"],
        ["calls refused", f"{refused:,}"],
        ["CPU µs for each, loop and thread", f"{busy / number * 1e6:.2f}"],
        ["a turn's delay, p99, ms", f"{percentile(late, 0.99) * 1e3:.2f}"],
    ]
    lost = number - log.written + log.lost + refused
    return [
        table([f"the audit log at {LINES_PER_SECOND:,} lines a second", ""], rows),
        "",
        verdict("Lines lost, or calls refused", lost, 0, at_least=False),
        verdict(
            "Turns that were held up for 10 ms or more, of 100",
            100 * sum(one > LATE for one in late) / len(late),
            1,
            at_least=False,
        ),
    ]
