"""One module for each question that the page answers, in the page's order."""

from types import ModuleType

from benchmarks.questions import (
    access,
    constant,
    growth,
    hop,
    kafka,
    kits,
    latency,
    memory,
    native,
    policies,
    postgres,
    proxied,
    redis,
    storage,
    streams,
    supervision,
)

QUESTIONS: dict[str, ModuleType] = {
    "constant": constant,  # What can the HTTP server do, with an application that does nothing?
    "proxied": proxied,  # What does a call to a plugin cost, and what at other proxies?
    "storage": storage,  # And with real work behind it: get and set on SQLite?
    "kafka": kafka,  # And Kafka: batches published, and a stream, beside its client alone?
    "postgres": postgres,  # And on PostgreSQL, beside a service that one would write?
    "redis": redis,  # And on Redis, beside other ways to reach it over HTTP?
    "latency": latency,  # What delay does the proxy add, at a load that it can bear?
    "growth": growth,  # How do costs grow with streams, connections, namespaces, bodies?
    "streams": streams,  # What do streams cost, and gRPC calls in front?
    "hop": hop,  # What of it is the hop from the proxy to the plugin?
    "kits": kits,  # And in other languages: what does a call cost the plugin?
    "native": native,  # What does a native library cost, in the proxy and in its host?
    "memory": memory,  # What does it all keep in memory?
    "access": access,  # What does it cost to know who calls, and to write it down?
    "policies": policies,  # What do limits, breakers, retries cost, and what do refusals?
    "supervision": supervision,  # What do reloads cost who calls?
}
