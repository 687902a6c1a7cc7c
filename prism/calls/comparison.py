"""Compares what two versions of a plugin answered, and keeps a bounded summary of it.

For shadows (``calls.policies.shadow``) and for ``prism replay``. Results are compared as values:
the order of keys, and how a number is written, do not matter; the order of a list does. Of errors
the status is compared, and not the words.

A summary must not give away what was in the calls. So a difference is told by its operation, its
kind and its path, and the values only where that is asked for. A path has the names of object keys
in it, and some of those are data, too, such as the keys of a map. ``Names`` says which may be
shown: those that the operation's schemas declare. Of another its number in the object is told.

Nor may a comparison hold the proxy up: ``MAX_ELEMENTS`` are looked at one by one, with what is
ignored among them, and what comes then is only asked whether it is equal.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from decimal import Decimal
from itertools import chain, count
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

MAX_ELEMENTS = 10_000
"""Elements of two results that are compared one by one, which takes some ten milliseconds."""

Kind = Literal["status", "type", "value", "missing", "extra", "length", "size"]
Outcome = Literal["equal", "different", "only_old_failed", "only_new_failed"]
Segment = str | int

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
    list's; ``size``: they, or what is left of the list or object there, are too large to say more.
    ``old`` and ``new`` are types, lengths and statuses; values only where they may be shown."""

    path: str
    kind: Kind
    old: str = ""
    new: str = ""


class Names:
    """Which keys of objects may be shown. ``None``: all."""

    def __init__(self, names: frozenset[str] | None) -> None:
        self._names = names

    def shown(self, key: str, number: int) -> str:
        """``key``, or what stands in the place of the ``number``-th of an object, from 1 on."""
        return key if self._names is None or key in self._names else f"*{number}"


ALL_NAMES = Names(None)
"""For where values may be shown, too."""


def declared_names(*declarations: OperationDeclaration | None) -> Names:
    """The names of properties in the schemas of an operation, as one or several plugins declare
    it. What none declares may be data, however much it looks like a name."""
    found: set[str] = set()
    for declared in declarations:
        if declared is not None:
            _collect_names(declared.params_schema, found)
            _collect_names(declared.result_schema, found)
    return Names(frozenset(found))


def names_in(schemas: Iterable[Any]) -> Names:
    """The same of schemas that are decoded already."""
    found: set[str] = set()
    for schema in schemas:
        _collect(schema, found)
    return Names(frozenset(found))


def _collect_names(schema: str, found: set[str]) -> None:
    if schema:
        with suppress(msgspec.MsgspecError, UnicodeError, RecursionError):  # a schema that is none
            _collect(msgspec.json.decode(schema), found)


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
        self.start: Places = self._with_skipped({(n, 0) for n in range(len(self._paths))})

    def below(self, places: "Places", step: Segment) -> "Places | None":
        """What is matched so far, a step below where ``places`` were; None: all of a path, so what
        is there is ignored. Its work is bounded by the length of the paths."""
        reached = set()
        for number, position in places:
            wanted = self._paths[number][position]
            if wanted == "**":
                reached.add((number, position))
            elif (
                wanted == step
                or (wanted == "*" and isinstance(step, str))
                or (wanted == "[*]" and isinstance(step, int))
            ):
                reached.add((number, position + 1))
        found = self._with_skipped(reached)
        if any(position == len(self._paths[number]) for number, position in found):
            return None
        return found

    def _with_skipped(self, places: set[tuple[int, int]]) -> "Places":
        """``places``, and where a ``**`` leads that stands for no step."""
        found = set(places)
        for number, position in places:
            path, following = self._paths[number], position
            while following < len(path) and path[following] == "**":
                following += 1
                found.add((number, following))
        return frozenset(found)


Places = frozenset[tuple[int, int]]
"""How far paths are matched: each by its number, with its next step."""

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


class _Absent:
    """There is no such key."""


_ABSENT = _Absent()
_Pairs = Iterator[tuple[Segment, Any, Any]]


class _Walk:
    """One walk through two values at once, without recursion: they come from outside."""

    def __init__(self, ignored: Ignored, names: Names, *, show_values: bool) -> None:
        self._ignored = ignored
        self._names = names
        self._show_values = show_values
        self._found: list[ResultDifference] = []
        self._roots: tuple[Any, Any] = (None, None)
        # The objects and lists around what is compared, with what of them is still to come; and
        # the steps that lead there, one fewer.
        self._around: list[tuple[_Pairs, Places]] = []
        self._path: list[Segment] = []

    def run(self, old: Any, new: Any) -> list[ResultDifference]:
        """The differences."""
        self._roots = (old, new)
        self._compare(old, new, self._ignored.start)
        room = MAX_ELEMENTS
        while self._around and len(self._found) < MAX_DIFFERENCES:
            pairs, places = self._around[-1]
            pair = next(pairs, None)
            if pair is None:
                self._leave()
                continue
            if room == 0:
                self._around[-1] = (chain((pair,), pairs), places)
                self._compare_rest()
                break
            room -= 1
            step, left, right = pair
            below: Places | None = places
            if places:
                below = self._ignored.below(places, step)
            if below is not None:
                self._path.append(step)
                if not self._compare(left, right, below):
                    self._path.pop()
        return self._found

    def _compare(self, left: Any, right: Any, places: Places) -> bool:
        """Compare what is at the path; true: what is in it comes next."""
        is_deep = len(self._path) >= MAX_DEPTH
        if not is_deep and isinstance(left, dict) and isinstance(right, dict):
            self._around.append((_in_dicts(left, right), places))
            return True
        if not is_deep and isinstance(left, list) and isinstance(right, list):
            if len(left) != len(right):
                self._note("length", str(len(left)), str(len(right)))
            self._around.append((zip(count(), left, right, strict=False), places))
            return True
        if right is _ABSENT:
            self._note("missing", self._shown(left), "")
        elif left is _ABSENT:
            self._note("extra", "", self._shown(right))
        elif not _same(left, right):
            kinds = type_name(left), type_name(right)
            if kinds[0] != kinds[1] and not self._show_values:
                self._note("type", *kinds)
            else:
                kind: Kind = "value" if kinds[0] == kinds[1] else "type"
                self._note(kind, self._shown(left), self._shown(right))
        return False

    def _compare_rest(self) -> None:
        """Say of each list and object around whether the rest of it is equal, as Python has it."""
        while self._around and len(self._found) < MAX_DIFFERENCES:
            pairs, places = self._around[-1]
            for step, left, right in pairs:
                if left != right and (not places or self._ignored.below(places, step) is not None):
                    self._note("size", "", "")
                    break
            self._leave()

    def _leave(self) -> None:
        self._around.pop()
        if self._path:
            self._path.pop()

    def _shown(self, value: Any) -> str:
        if not self._show_values:
            return type_name(value)
        if isinstance(value, str):
            text = msgspec.json.encode(value).decode()
        else:
            text = str(value)
        return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"

    def _note(self, kind: Kind, old: str, new: str) -> None:
        path = path_text(self._path, self._names, *self._roots)
        self._found.append(ResultDifference(path, kind, old, new))


def _in_dicts(left: dict[Any, Any], right: dict[Any, Any]) -> _Pairs:
    for key, value in left.items():
        yield str(key), value, right.get(key, _ABSENT)
    for key, value in right.items():
        if key not in left:
            yield str(key), _ABSENT, value


def path_text(path: Iterable[Segment], names: Names, old: Any, new: Any) -> str:
    """The path as people read it; of a key that may be data, the number that it has in ``old``,
    or else in ``new``."""
    text = "$"
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{names.shown(step, _number_of(step, old) or _number_of(step, new))}"
        old, new = _at(step, old), _at(step, new)
    return text


def _number_of(key: str, value: Any) -> int:
    """From 1 on; 0: there is no such key."""
    keys = value if isinstance(value, dict) else ()
    return next((number for number, each in enumerate(keys, 1) if str(each) == key), 0)


def _at(step: Segment, value: Any) -> Any:
    if isinstance(step, int):
        return value[step] if isinstance(value, list) and step < len(value) else None
    if not isinstance(value, dict):
        return None
    return value[step] if step in value else next(
        (each for key, each in value.items() if str(key) == step), None
    )  # fmt: skip


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
