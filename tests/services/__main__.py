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
from tests.services.redis import Redis, Valkey
from tests.services.server import Missing, Server

FILE = Path(__file__).parents[2] / "build" / "services.json"

KINDS: tuple[type[Server], ...] = (DebianPostgreSQL, PostgreSQL18, PgBouncer, Kafka, Redis, Valkey)
"""In the order of their starts; an option that is another server names its kind here."""
BEFORE: dict[type[Server], type[Server]] = {PgBouncer: DebianPostgreSQL}
"""The server that one of this kind stands before."""


def running(kind: type[Server]) -> Server | None:
    """The server of this kind that ``up`` has started, if it runs."""
    record = _read().get(kind.name)
    return None if record is None else kind.attach(record)


def up() -> int:
    """Start what is not running yet."""
    FILE.parent.mkdir(exist_ok=True)
    records = _read()
    servers: dict[type[Server], Server] = {}
    for kind in KINDS:
        try:
            options = {"before": servers[BEFORE[kind]]} if kind in BEFORE else {}
            server = running(kind) or kind.start(FILE.parent, outlives=True, **options)
        except (Missing, KeyError) as error:
            print(f"{kind.name:12} not started: {error}")
            continue
        servers[kind] = server
        records[kind.name] = server.record()
        FILE.write_text(json.dumps(records, indent=2))
        print(f"{kind.name:12} {json.dumps(shown(server.addresses()))}")
        if kind is not PgBouncer:  # which wants settings that a demo has not
            print(f"{'':12} {serve_command(kind, server.addresses())}")
    return 0


def serve_command(kind: type[Server], addresses: dict[str, Any]) -> str:
    """What serves a demo on a server of this kind."""
    if issubclass(kind, Kafka):
        return f"prism serve --demo kafka --server 127.0.0.1:{addresses['port']}"
    backend = "redis" if issubclass(kind, Redis) else "postgres"
    apart = shown(addresses)
    if "password" not in apart:
        return f"prism serve --demo {backend} --server {apart['url']}"
    url = apart["url"].replace("://", f"://{quote(apart['username'], safe='')}@")
    password = shlex.quote(apart["password"])
    return f"PGPASSWORD={password} prism serve --demo {backend} --server {url}"


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
            print(f"{kind.name:12} stopped")
    FILE.unlink(missing_ok=True)
    return 0


def _read() -> dict[str, Any]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


if __name__ == "__main__":
    if sys.argv[1:] not in (["up"], ["down"]):
        sys.exit(__doc__)
    sys.exit(up() if sys.argv[1] == "up" else down())
