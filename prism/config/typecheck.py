"""What in a file does not fit the types, in words: what is accepted, what was found, what to do.

Whether a value fits, msgspec decides; but it stops at the first fault and knows no lines. This
walks the file beside the types' annotations, asks msgspec about each value that is no block,
list or mapping, and tells every fault in its place.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo

from prism.config.document import Entry, Node, Place, Unreadable
from prism.config.errors import Path, clip
from prism.config.fields import PERCENTILE_FORM
from prism.contract.settings import suggest

SHORT_LIST = 12
"""Up to so many accepted keys are listed even beside a suggestion."""

Annotation: TypeAlias = Any
"""A type as it is written: ``Annotated[str, Meta(…)] | None``."""


class Alternative(NamedTuple):
    """One of the types of an annotation, and what is said of it, from the inside out."""

    kind: Any
    metas: tuple[Meta, ...]

    @property
    def block(self) -> type[Struct] | None:
        """The block that this type is, if it is one."""
        is_block = isinstance(self.kind, type) and issubclass(self.kind, Struct)
        return self.kind if is_block else None

    def meta(self, name: str) -> Any:
        """A constraint, or a key of ``extra`` (see ``prism.config.fields``); ``None`` without."""
        said = ((one.extra or {}).get(name) or getattr(one, name, None) for one in self.metas)
        return next((value for value in said if value is not None), None)


@cache
def alternatives(annotation: Annotation, metas: tuple[Meta, ...] = ()) -> tuple[Alternative, ...]:
    """The members of a union, or the one type that is none."""
    origin: Any = get_origin(annotation)
    inner = get_args(annotation)
    if origin is Annotated:
        return alternatives(inner[0], (*inner[1:], *metas))
    if origin in (Union, UnionType):
        return tuple(one for member in inner for one in alternatives(member, metas))
    return (Alternative(annotation, metas),)


@cache
def fields_of(block: type[Struct]) -> dict[str, FieldInfo]:
    """The keys of a block, with their annotations."""
    return {field.encode_name: field for field in msgspec.structs.fields(block)}


def meta_of(annotation: Annotation, name: str) -> Any:
    """The first ``meta`` of that name of the alternatives."""
    said = (one.meta(name) for one in alternatives(annotation))
    return next((value for value in said if value is not None), None)


# -- the walk -----------------------------------------------------------------


def check_types(at: Place, annotation: Annotation, *, hidden: bool = False) -> None:
    """Report every place, at or below ``at``, that does not fit.

    With ``hidden``, no message shows a value: it may be secret. Words that YAML turns into
    booleans draw a warning where anything is accepted.
    """
    value = at.node.value
    if isinstance(value, Unreadable):
        at.error(value.reason)
        return
    accepted = alternatives(annotation)
    hidden = hidden or any(one.meta("private") for one in accepted)
    for one in accepted:
        inner = get_args(one.kind)
        if one.kind is Any:
            _warn_of_word(at)
            for below in at.below():
                check_types(below, Any, hidden=hidden)
            return
        if isinstance(value, dict) and one.block is not None:
            _check_block(at, value, one.block, hidden=hidden)
            return
        if isinstance(value, dict) and get_origin(one.kind) is dict:
            for name, entry in value.items():
                check_types(Place(at.report, entry.key, (*at.path, name)), inner[0])
                check_types(at[name], inner[1], hidden=hidden)
            return
        if isinstance(value, list) and get_origin(one.kind) in (list, tuple):
            if not value and not _fits([], annotation):
                at.error("the list is empty")
            for item in at.items():
                check_types(item, inner[0], hidden=hidden)
            return
    if isinstance(value, list | dict) or not _fits(value, annotation):
        key = str(at.path[-1]) if at.path else ""
        at.error(_mismatch(at.node, annotation, key, hidden=hidden))


def _check_block(
    at: Place, entries: dict[str, Entry], block: type[Struct], *, hidden: bool
) -> None:
    fields = fields_of(block)
    for name, entry in entries.items():
        if name in fields:
            check_types(at[name], fields[name].type, hidden=hidden)
        else:
            said = _unknown_key(name, block, at.path)
            at.report.error(entry.key.mark, (*at.path, name), said)
    meant = {_meant(name, fields) for name in entries if name not in fields}
    for name, field in fields.items():
        if field.required and name not in entries and name not in meant:
            at.error(f'the required key "{name}" is missing')


def _warn_of_word(at: Place) -> None:
    value, written = at.node.value, at.node.written
    if isinstance(value, bool) and written.lower() in ("yes", "no", "on", "off"):
        meaning = "true" if value else "false"
        at.warning(
            f"YAML reads {written} as {meaning}; write {meaning}, "
            f'or put it in quotes if you mean the word: "{written}"'
        )


def _fits(value: Any, annotation: Annotation, *, strict: bool = True) -> bool:
    """Whether msgspec takes the value; without ``strict``, also numbers and booleans as text."""
    try:
        msgspec.convert(value, annotation, strict=strict)
    except msgspec.ValidationError:
        return False
    return True


# -- the words ----------------------------------------------------------------

_ACCEPTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_FOUND: dict[type, str] = {
    type(None): "nothing (null)",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


def expected(annotation: Annotation, *, with_form: bool = True) -> str:
    """What is accepted, in words; ``with_form``: and in which form, where text has one."""
    words = [
        (with_form and one.meta("form")) or _words(one)
        for one in alternatives(annotation)
        if one.kind is not type(None)
    ]
    return " or ".join(dict.fromkeys(words))


def _words(one: Alternative) -> str:
    origin = get_origin(one.kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(one.kind)))
    if one.block is not None or origin in (list, tuple, dict):
        return "a mapping" if one.block is not None or origin is dict else "a list"
    words = _ACCEPTED.get(one.kind, "any value")
    if one.kind is str:
        return words + (" that is not empty" if one.meta("min_length") else "")
    above, least, most = one.meta("gt"), one.meta("ge"), one.meta("le")
    words += f" above {above:g}" if above is not None else ""
    words += f" from {least}" if least is not None else ""
    if most is not None:
        words += f" to {most}" if least is not None else f", at most {most:g}"
    return words


def _mismatch(node: Node, annotation: Annotation, key: str, *, hidden: bool) -> str:
    """What is wrong with the value of ``key``, and what to do about it."""
    value, written = node.value, node.written
    accepted = [one for one in alternatives(annotation) if one.kind is not type(None)]
    kinds = {get_origin(one.kind) or (dict if one.block else one.kind) for one in accepted}
    # Text where a block belongs is often "key:value" without its space.
    shape = "" if hidden else _shape(value, written, accepted)
    hidden = hidden or kinds <= {list, dict}
    is_text_unquoted = isinstance(value, bool | int | float) and _fits(written, annotation)
    advice = ""
    if value is None:
        advice = "; remove the key, or give it a value"
    elif shape:
        advice = shape
    elif is_text_unquoted:
        advice = "; put it in quotes" + ("" if hidden else f': "{clip(written)}"')
    elif Literal in kinds and not isinstance(value, bool) and not hidden:
        choices = [
            word
            for one in accepted
            if get_origin(one.kind) is Literal
            for word in get_args(one.kind)
        ]
        close = get_close_matches((written or str(value))[:64].lower(), choices, 1)
        advice = f'; did you mean "{close[0]}"?' if close else ""
    elif isinstance(value, str) and not hidden and (percentile := _percentile(value, annotation)):
        advice = f'; did you mean "{percentile}"?'
    elif isinstance(value, str) and not written and _is_quoted(value, annotation, kinds):
        advice = "; remove the quotes"
    elif kinds == {list}:
        advice = '; begin each item with "- "'
    elif isinstance(value, str) and kinds & {int, float} and not hidden:
        advice = _without_unit(value, key)
    accepts = expected(annotation, with_form=not is_text_unquoted)
    return f"expected {accepts}, found {_found(node, hidden=hidden)}{advice}"


_UNITS: dict[str, dict[str, float]] = {
    "seconds": {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400},
    "bytes": {
        "b": 1, "k": 1024, "kib": 1024, "kb": 1000, "m": 1024**2, "mib": 1024**2, "mb": 1000**2,
        "g": 1024**3, "gib": 1024**3, "gb": 1000**3,
    },
}  # fmt: skip
"""What people write behind numbers, by the end of the key's name, which has the unit."""


def _without_unit(text: str, key: str) -> str:
    """The advice to write a number with a unit without it, converted."""
    unit = "seconds" if key == "after" else key.rpartition("_")[2]
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([A-Za-z]{1,3})", text)
    factor = _UNITS.get(unit, {}).get(found[2].lower()) if found else None
    if found is None or factor is None:
        return ""
    number = round(float(found[1]) * factor, 6)
    return f"; {unit}, without a unit: {int(number) if number.is_integer() else number}"


def _percentile(text: str, annotation: Annotation) -> str:
    """What 95% or P95 is called here, where a percentile is accepted; else empty."""
    forms = {one.meta("form") for one in alternatives(annotation)}
    found = re.fullmatch(r"[pP]?([0-9]{2}(?:\.[0-9])?) ?(?:%|th)?", text)
    is_one = found is not None and PERCENTILE_FORM in forms and _fits(f"p{found[1]}", annotation)
    return f"p{found[1]}" if found is not None and is_one else ""


def _shape(value: Any, written: str, accepted: list[Alternative]) -> str:
    """The advice how a block is written, for one number, or "true", in its place."""
    block = next((one.block for one in accepted if one.block is not None), None)
    if block is None or not isinstance(value, bool | int | float):
        return ""
    required = [field for field in fields_of(block).values() if field.required]
    if value is True and not required:
        return "; {} takes the defaults"
    if isinstance(value, bool):
        return "; remove the key, for there to be none" if value is False else ""
    if len(required) == 1 and _fits(value, required[0].type):
        return f"; write {{{required[0].encode_name}: {clip(written or str(value))}}}"
    return ""


def _is_quoted(text: str, annotation: Annotation, kinds: set[Any]) -> bool:
    """Whether it would fit without its quotes."""
    if bool in kinds:
        return text in ("true", "false")
    return _fits(text, annotation, strict=False)


def _found(node: Node, *, hidden: bool) -> str:
    """A value as it is shown: cut short, and only its kind where it is hidden."""
    value, written = node.value, node.written
    if hidden or value is None or isinstance(value, list | dict):
        return _FOUND[type(value)]
    if isinstance(value, bool):
        meaning = "true" if value else "false"
        return meaning if written.lower() in ("", meaning) else f"{meaning} (written {written})"
    if isinstance(value, str):
        return f'the text "{clip(value)}"'
    return f"the number {clip(written or str(value))}"


_OTHER_WORDS = {
    "circuit_breaker": "breaker", "circuitbreaker": "breaker", "outlier_detection": "balance",
    "load_balancing": "balance", "retry": "retries", "retry_policy": "retries",
    "hedge": "hedging", "hedging_policy": "hedging", "rate_limit": "rate", "rate_limits": "rate",
    "ratelimit": "rate", "rate_limiting": "rate", "throttle": "rate", "replicas": "processes",
    "workers": "processes", "instances": "processes", "rps": "calls_per_second",
    "qps": "calls_per_second", "requests_per_second": "calls_per_second",
    "calls_per_minute": "calls_per_second", "requests_per_minute": "calls_per_second",
    "rpm": "calls_per_second", "mirror": "shadow", "concurrency": "max_in_flight",
    "max_concurrency": "max_in_flight", "max_retries": "attempts", "max_attempts": "attempts",
    "load_shedding": "shedding",
}  # fmt: skip
"""Other products' words for keys."""
_OF_THE_PROXY = frozenset({"shedding", "limits_store", "authentication", "audit", "verification"})
"""Keys of the top level that people look for in a namespace."""


def _meant(name: str, choices: Iterable[str]) -> str | None:
    """Which of the keys ``name`` probably stands for."""
    known = list(choices)
    word = _other_word(name)
    return word if word in known else suggest(name, known)


def _other_word(name: str) -> str:
    return _OTHER_WORDS.get(name[:64].lower().replace("-", "_"), "")


def _unknown_key(name: str, block: type[Struct], path: Path) -> str:
    fields = fields_of(block)
    accepted = f"(accepted: {', '.join(fields)})"
    word = _other_word(name)
    if path[:1] == ("namespaces",) and (word or name) in _OF_THE_PROXY:
        return f'unknown key; "{word or name}" belongs at the top level'
    close = _meant(name, fields)
    if close:
        meant = f'unknown key; did you mean "{close}"?'
        if close == "calls_per_second" and name.lower().endswith(("minute", "rpm")):
            meant += " (a sixtieth of the number)"
        return f"{meant} {accepted}" if len(fields) <= SHORT_LIST else meant
    for outer, field in fields.items():
        blocks = [one.block for one in alternatives(field.type) if one.block is not None]
        if any(name in fields_of(inner) for inner in blocks):
            return f'unknown key; "{clip(name)}" belongs inside "{outer}"'
        if word and any(word in fields_of(inner) for inner in blocks):
            return f'unknown key; did you mean "{word}" inside "{outer}"?'
    return f"unknown key {accepted}"
