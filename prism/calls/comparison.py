"""Compares what two versions of a plugin answered, and keeps a bounded summary of it.

For shadows (``calls.policies.shadow``) and for ``prism replay``. Results are compared as values:
the order of keys, and how a number is written, do not matter; the order of a list does. Of errors
the status is compared, and not the words.

A summary must not give away what was in the calls. So a difference is told by its operation, its
kind and its path, and the values only where that is asked for. A path has the names of object keys
in it, and some of those are data, too, such as the keys of a map. ``Names`` says which may be
shown: those that the operation's schemas declare.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec

from prism.contract.messages import OperationDeclaration
from prism.contract.status import StatusCode
from prism.sdk.json_equality import decode_exactly
from prism.supervision.canary import Sample

MAX_DIFFERENCES = 8
"""Differences that are kept of one call: the first few say what is wrong."""
MAX_GROUPS = 200
"""Kinds and places of differences that are counted apart; what comes then is counted together."""
MAX_RECENT = 20
"""Calls with differences that are kept."""
MAX_COMPARED = 4 * 1024 * 1024
"""Bytes of a result that is compared as values; a larger one must be the same bytes."""
MAX_SHOWN = 100
"""Characters of a value that is shown."""
MAX_DEPTH = 64
"""Steps of a path that is told; what is deeper is told at the step above."""

HIDDEN = "*"
"""In a path, in the place of a key that may be data."""

Kind = Literal["status", "type", "value", "missing", "extra", "length", "size"]
Outcome = Literal["equal", "different", "only_old_failed", "only_new_failed"]
Segment = str | int

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}").fullmatch
_OK = StatusCode.OK


class Answer(NamedTuple):
    """What came of a call. ``text`` is JSON, or ``raw`` MessagePack in its place; of one that
    failed, neither. ``seconds`` is how long the plugin had it."""

    status: StatusCode
    text: str = ""
    raw: bytes = b""
    seconds: float = 0.0

    @property
    def size(self) -> int:
        """Bytes, or characters."""
        return len(self.text) + len(self.raw)


class ResultDifference(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where two answers differ: ``missing`` and ``extra`` are of the new one, ``length`` is a
    list's; ``size``: they are too large to say more. ``old`` and ``new`` are types, lengths and
    statuses; values only where they may be shown."""

    path: str
    kind: Kind
    old: str = ""
    new: str = ""


class Names:
    """Which keys of objects may be shown. ``None``: all that look like a name."""

    def __init__(self, names: frozenset[str] | None) -> None:
        self._names = names

    def shown(self, key: str) -> str:
        """``key``, or what stands in its place."""
        if self._names is None:
            return key if _NAME(key) else HIDDEN
        return key if key in self._names else HIDDEN


class _All(Names):
    def shown(self, key: str) -> str:
        return key


ALL_NAMES: Names = _All(None)
"""For where values may be shown, too."""


def declared_names(*declarations: OperationDeclaration | None) -> Names:
    """The names in the schemas of an operation, as one or several plugins declare it. Where none
    declares any, keys that look like names are shown: nothing better is known."""
    found: set[str] = set()
    for declared in declarations:
        if declared is not None and declared.result_schema:
            for text in (declared.params_schema, declared.result_schema):
                _collect(msgspec.json.decode(text) if text else None, found)
    return Names(frozenset(found) if found else None)


def _collect(schema: Any, found: set[str]) -> None:
    nodes = [schema]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            properties = node.get("properties")
            if isinstance(properties, dict):
                found.update(properties)
            nodes += node.values()
        elif isinstance(node, list):
            nodes += node


# -- paths that are ignored -----------------------------------------------------------


class Ignored:
    """Parts of results that are not compared, such as times and ids that are new each time.

    A path is keys and indices, as ``items[*].updated_at``: ``*`` is any key, ``[*]`` any index,
    ``**`` any number of steps. What lies below one is ignored, too.

    Raises:
        ValueError: a path is none.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = [parse_path(path) for path in paths]

    def has(self, path: tuple[Segment, ...]) -> bool:
        """Is it one that is ignored?"""
        return any(_matches(pattern, path) for pattern in self._paths)


_STEP = re.compile(r"\.?(\*\*|\*|[^.\[\]*]+)|\[(\*|\d{1,9})\]")


def parse_path(text: str) -> tuple[Segment, ...]:
    """The steps of a path. Raises ValueError: it is none."""
    position = 2 if text.startswith("$.") else 1 if text.startswith("$[") else 0
    steps: list[Segment] = []
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None or (not steps and text[position] == "."):
            raise ValueError(f"expected a path such as items[*].updated_at, found {text!r}")
        key, index = match.groups()
        steps.append(key if key is not None else "[*]" if index == "*" else int(index))
        position = match.end()
    if not steps:
        raise ValueError("a path has at least one key, such as updated_at")
    return tuple(steps)


def _matches(pattern: tuple[Segment, ...], path: tuple[Segment, ...]) -> bool:
    if not pattern:
        return not path
    first = pattern[0]
    if first == "**":
        return any(_matches(pattern[1:], path[n:]) for n in range(len(path) + 1))
    if not path:
        return False
    step = path[0]
    fits = (
        first == step
        or (first == "*" and isinstance(step, str))
        or (first == "[*]" and isinstance(step, int))
    )
    return fits and _matches(pattern[1:], path[1:])


NOTHING_IGNORED = Ignored(())


# -- the comparison -------------------------------------------------------------------


def compare(
    old: Answer,
    new: Answer,
    ignored: Ignored = NOTHING_IGNORED,
    names: Names = ALL_NAMES,
    *,
    show_values: bool = False,
) -> list[ResultDifference]:
    """The first ``MAX_DIFFERENCES`` differences; none: they are equal. Never raises."""
    if old.status != new.status:
        return [ResultDifference("$", "status", old.status.name, new.status.name)]
    if old.text == new.text and old.raw == new.raw:
        return []
    if max(old.size, new.size) > MAX_COMPARED:
        return [ResultDifference("$", "size", str(old.size), str(new.size))]
    try:
        walk = _Walk(ignored, names, show_values=show_values)
        return walk.run(_decoded(old), _decoded(new))
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
        return [ResultDifference("$", "type", "JSON", "no JSON")]


def _decoded(answer: Answer) -> Any:
    if answer.raw:
        return msgspec.msgpack.decode(answer.raw)
    return decode_exactly(answer.text or "{}")


class _Walk:
    """One walk through two values at once, without recursion: they come from outside."""

    def __init__(self, ignored: Ignored, names: Names, *, show_values: bool) -> None:
        self._ignored = ignored
        self._names = names
        self._show_values = show_values
        self._found: list[ResultDifference] = []

    def run(self, old: Any, new: Any) -> list[ResultDifference]:
        """The differences."""
        waiting: list[tuple[tuple[Segment, ...], Any, Any]] = [((), old, new)]
        while waiting and len(self._found) < MAX_DIFFERENCES:
            path, left, right = waiting.pop()
            if path and self._ignored.has(path):
                continue
            if len(path) < MAX_DEPTH and isinstance(left, dict) and isinstance(right, dict):
                waiting += reversed(list(self._in_dicts(path, left, right)))
            elif len(path) < MAX_DEPTH and isinstance(left, list) and isinstance(right, list):
                if len(left) != len(right):
                    self._note(path, "length", str(len(left)), str(len(right)))
                pairs = zip(left, right, strict=False)
                waiting += reversed([((*path, n), a, b) for n, (a, b) in enumerate(pairs)])
            elif not _same(left, right):
                kinds = type_name(left), type_name(right)
                if kinds[0] != kinds[1]:
                    self._note(path, "type", *kinds)
                else:
                    self._note(path, "value", self._shown(left), self._shown(right))
        return self._found

    def _in_dicts(
        self, path: tuple[Segment, ...], left: dict[Any, Any], right: dict[Any, Any]
    ) -> Iterator[tuple[tuple[Segment, ...], Any, Any]]:
        for key in left.keys() | right.keys() if left.keys() != right.keys() else left.keys():
            below = (*path, str(key))
            if key in left and key in right:
                yield below, left[key], right[key]
            elif not self._ignored.has(below) and len(self._found) < MAX_DIFFERENCES:
                is_missing = key in left
                value = self._shown(left[key] if is_missing else right[key])
                both = (value, "") if is_missing else ("", value)
                self._note(below, "missing" if is_missing else "extra", *both)

    def _shown(self, value: Any) -> str:
        if not self._show_values:
            return type_name(value)
        if isinstance(value, str):
            text = msgspec.json.encode(value).decode()
        else:
            text = str(value)
        return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"

    def _note(self, path: tuple[Segment, ...], kind: Kind, old: str, new: str) -> None:
        self._found.append(ResultDifference(path_text(path, self._names), kind, old, new))


def path_text(path: tuple[Segment, ...], names: Names) -> str:
    """The path as people read it; keys that may be data are hidden."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{names.shown(step)}" for step in path)
    return "$" + "".join(steps)


_NUMBERS = (int, float, Decimal)


def type_name(value: Any) -> str:
    """JSON's word for the type of ``value``."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float() | Decimal():
            return "number"
        case str():
            return "text"
        case dict():
            return "object"
        case list():
            return "list"
        case _:
            return "number" if isinstance(value, tuple) else type(value).__name__


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, _NUMBERS) and isinstance(right, _NUMBERS):
        return left == right
    return type(left) is type(right) and bool(left == right)


# -- the summary ----------------------------------------------------------------------


class Group(msgspec.Struct, frozen=True):
    """Differences of one kind at one place, whatever the index in a list is."""

    operation: str
    kind: Kind
    path: str
    count: int


class DifferentCall(msgspec.Struct, frozen=True):
    """One call whose answers differ. ``time`` is Unix time, in seconds."""

    time: float
    operation: str
    request_id: str
    differences: list[ResultDifference]


class Latency(msgspec.Struct, frozen=True):
    """Seconds that a plugin took, to within a fifth: half of the calls took at most ``p50``."""

    p50: float
    p95: float
    p99: float


class Tally:
    """What was compared so far: counts, latencies, where answers differ, and the last of those."""

    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.recent: deque[DifferentCall] = deque(maxlen=MAX_RECENT)
        self.other_differences = 0
        self._groups: dict[tuple[str, Kind, str], int] = {}
        self._old = Sample()
        self._new = Sample()

    def add(
        self,
        operation: str,
        request_id: str,
        old: Answer,
        new: Answer,
        differences: list[ResultDifference],
        time: float,
    ) -> Outcome:
        """Count one call."""
        self._old.take(old.seconds, old.status)
        self._new.take(new.seconds, new.status)
        outcome = _outcome(old, new, differences)
        self.outcomes[outcome] += 1
        if differences:
            self.recent.append(DifferentCall(time, operation, request_id, differences))
            for each in differences:
                self._count((operation, each.kind, _INDEX.sub("[*]", each.path)))
        return outcome

    def _count(self, key: tuple[str, Kind, str]) -> None:
        if key in self._groups or len(self._groups) < MAX_GROUPS:
            self._groups[key] = self._groups.get(key, 0) + 1
        else:
            self.other_differences += 1

    @property
    def groups(self) -> list[Group]:
        """Where answers differ, the most frequent first."""
        ordered = sorted(self._groups.items(), key=lambda item: (-item[1], item[0]))
        return [Group(*key, count) for key, count in ordered]

    @property
    def latencies(self) -> tuple[Latency, Latency]:
        """Of the old one, and of the new."""
        return _latency(self._old), _latency(self._new)


_INDEX = re.compile(r"\[\d+\]")


def _latency(sample: Sample) -> Latency:
    return Latency(*(sample.latency(share) for share in (0.5, 0.95, 0.99)))


def _outcome(old: Answer, new: Answer, differences: list[ResultDifference]) -> Outcome:
    if not differences:
        return "equal"
    if old.status is not _OK and new.status is _OK:
        return "only_old_failed"
    if old.status is _OK and new.status is not _OK:
        return "only_new_failed"
    return "different"


class ShadowReport(msgspec.Struct, frozen=True):
    """What a namespace's shadow answered, compared with what its plugin did, since ``since``.

    ``instance`` and ``version`` are the shadow's now, null while it does not serve. ``outcomes``
    are the calls compared; ``only_plugin_failed``: the shadow answered where the plugin failed.
    ``dropped`` are calls that were not copied, or not compared: the shadow had no instance
    (``no_plugin``), there were too many copies (``in_flight``) or bytes (``memory``), the client
    left (``cancelled``). ``differences`` are where answers differ, the most frequent first, and
    ``other_differences`` those that are too many to be told apart; ``recent`` are the last calls
    that differed, without their values unless the configuration keeps them. Times are in seconds.
    """

    namespace: str
    instance: str | None
    version: str | None
    share: float
    since: float
    copied: int
    in_flight: int
    outcomes: dict[str, int]
    dropped: dict[str, int]
    latency: Latency
    shadow_latency: Latency
    differences: list[Group]
    other_differences: int
    recent: list[DifferentCall]
