"""``python -m tests.services up|down``: all servers that the tests know, until ``down``.

``up`` starts each that is installed, and writes their addresses to ``build/services.json``; the
tests then use those instead of starting their own. ``down`` ends them by their pids.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from tests.services.kafka import Kafka
from tests.services.postgres import DebianPostgreSQL, PgBouncer, PostgreSQL18
from tests.services.redis import Redis, RedisCluster, Sentinel, Valkey, ValkeyCluster
from tests.services.server import Missing, Server

FILE = Path(__file__).parents[2] / "build" / "services.json"

Kind = type[Server] | type[RedisCluster]

KINDS: tuple[Kind, ...] = (
    DebianPostgreSQL,
    PostgreSQL18,
    PgBouncer,
    Kafka,
    Redis,
    Sentinel,
    Valkey,
    ValkeyCluster,
)
"""In the order of their starts."""
NEEDS: dict[Kind, tuple[str, Kind]] = {
    PgBouncer: ("before", DebianPostgreSQL),
    Sentinel: ("watches", Redis),
}
"""The option of a kind that is another server, and the kind of that."""
DEMOS: dict[Kind, str] = {
    DebianPostgreSQL: "postgres",
    PostgreSQL18: "postgres",
    Kafka: "kafka",
    Redis: "redis",
    Valkey: "redis",
}
"""The demo that runs on one; the others want settings that no demo has."""


def running(kind: Kind) -> Server | RedisCluster | None:
    """The server of this kind that ``up`` has started, if it runs."""
    record = _read().get(kind.name)
    return None if record is None else kind.attach(record)


def up() -> int:
    """Start what is not running yet."""
    FILE.parent.mkdir(exist_ok=True)
    records = _read()
    servers: dict[Kind, Server | RedisCluster] = {}
    for kind in KINDS:
        try:
            option, needed = NEEDS.get(kind, ("", kind))
            options = {option: servers[needed]} if option else {}
            server = running(kind) or kind.start(FILE.parent, outlives=True, **options)
        except (Missing, KeyError) as error:
            print(f"{kind.name:14} not started: {error}")
            continue
        servers[kind] = server
        records[kind.name] = server.record()
        FILE.write_text(json.dumps(records, indent=2))
        addresses = server.addresses()
        if isinstance(addresses, list):
            addresses = {"addresses": addresses}
        print(f"{kind.name:14} {json.dumps(shown(addresses))}")
        if kind in DEMOS:
            print(f"{'':14} {serve_command(kind, addresses)}")
    return 0


def serve_command(kind: Kind, addresses: dict[str, Any]) -> str:
    """What serves a demo on a server of this kind."""
    demo, apart = DEMOS[kind], shown(addresses)
    if "password" not in apart:
        server = apart.get("url", f"127.0.0.1:{apart['port']}")
        return f"prism serve --demo {demo} --server {server}"
    url = apart["url"].replace("://", f"://{quote(apart['username'], safe='')}@")
    password = shlex.quote(apart["password"])
    return f"PGPASSWORD={password} prism serve --demo {demo} --server {url}"


def shown(addresses: dict[str, Any]) -> dict[str, Any]:
    """``addresses`` with a URL that a plugin takes, and what its ``credentials`` take apart."""
    url = urlsplit(addresses.get("url", ""))
    if not url.username:
        return addresses
    bare = url._replace(netloc=url.netloc.rpartition("@")[2])
    credentials = {"username": unquote(url.username), "password": unquote(url.password or "")}
    return addresses | {"url": bare.geturl()} | credentials


def down() -> int:
    """End what ``up`` has started."""
    records = _read()
    for kind in reversed(KINDS):
        record = records.get(kind.name)
        server = None if record is None else kind.attach(record)
        if server is not None:
            server.stop()
            print(f"{kind.name:14} stopped")
    FILE.unlink(missing_ok=True)
    return 0


def _read() -> dict[str, Any]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


if __name__ == "__main__":
    if sys.argv[1:] not in (["up"], ["down"]):
        sys.exit(__doc__)
    sys.exit(up() if sys.argv[1] == "up" else down())
