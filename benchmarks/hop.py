"""The hop from the proxy to a plugin in another process, beside gRPC and the bare socket."""

from contextlib import ExitStack

from benchmarks.measure import Load, Sample, take_turns
from benchmarks.processes import Caller
from benchmarks.report import table, verdict

FLOOR = "bare socketpair"
GRPC = "grpc.aio"
PRISM = "Prism, trio, MessagePack"
SIDES = {
    FLOOR: ("raw_socket",),
    GRPC: ("grpc_unary",),
    PRISM: ("framed", "trio", "msgpack"),
    "Prism, trio, JSON": ("framed", "trio", "json"),
    "Prism, asyncio, MessagePack": ("framed", "asyncio", "msgpack"),
    "Prism, asyncio, JSON": ("framed", "asyncio", "json"),
}
LOADS = [Load(1), Load(16), Load(64), Load(256)]

HEAD = (
    "calls in flight: side",
    "calls/s",
    "x grpc.aio",
    "p50 µs",
    "p99 µs",
    "caller CPU µs",
    "plugin CPU µs",
)


def runs(side: str, load: Load) -> bool:
    """Whether ``side`` is measured under ``load``."""
    return side != FLOOR or load.in_flight == 1


def measure(*, rounds: int, seconds: float) -> str:
    """The section of the page, as Markdown."""
    with ExitStack() as stack:
        sides = {name: stack.enter_context(Caller(*call)) for name, call in SIDES.items()}
        results = take_turns(sides, LOADS, rounds=rounds, seconds=seconds, runs=runs)

    def row(name: str, load: Load) -> list[str]:
        def middle(value: str, each: bool = False) -> str:
            def read(sample: Sample) -> float:
                number: float = getattr(sample, value)
                return number * 1e6 / (sample.calls if each else 1)

            return f"{results.median(name, load, read):,.1f}"

        ratio = results.ratio(name, GRPC, load, lambda sample: sample.rate)
        return [
            f"{load.in_flight}: {name}",
            f"{results.median(name, load, lambda sample: sample.rate):,.0f}",
            f"{ratio:.1f}",
            middle("p50"),
            middle("p99"),
            middle("cpu", each=True),
            middle("peer_cpu", each=True),
        ]

    rate = results.ratio(PRISM, GRPC, Load(64), lambda sample: sample.rate)
    cost = results.ratio(GRPC, PRISM, Load(64), lambda s: (s.cpu + s.peer_cpu) / s.calls)
    delay = results.ratio(PRISM, GRPC, Load(1), lambda sample: sample.p50)
    return "\n".join(
        [
            table(HEAD, [row(name, load) for load in LOADS for name in SIDES if runs(name, load)]),
            "",
            verdict(f"Calls per second, {PRISM} / {GRPC}, 64 in flight", rate, 10, at_least=True),
            f"- CPU time per call, both processes, {GRPC} / {PRISM}, 64 in flight: **{cost:.2f}**",
            verdict(f"p50, {PRISM} / {GRPC}, 1 in flight", delay, 0.5, at_least=False),
        ]
    )
