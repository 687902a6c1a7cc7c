"""How messages about a configuration name types and values."""

from difflib import get_close_matches

from msgspec import inspect

from prism.config.nodes import Node, clip


def expected(kind: inspect.Type) -> str:
    """What a type accepts, in words."""
    match kind:
        case inspect.Metadata(type=inner, extra=extra):
            return (extra or {}).get("form") or expected(inner)
        case inspect.UnionType(types=members):
            named = [m for m in members if not isinstance(m, inspect.NoneType)]
            return " or ".join(dict.fromkeys(expected(member) for member in named))
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=ge, le=le):
            return f"a whole number from {ge}" + (f" to {le}" if le is not None else "")
        case inspect.FloatType(gt=gt, le=le):
            return f"a number above {_short(gt)}" + (f", at most {_short(le)}" if le else "")
        case inspect.StrType(min_length=min_length):
            return "text that is not empty" if min_length else "text"
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(str(value) for value in values)
        case inspect.ListType():
            return "a list"
        case inspect.DictType() | inspect.StructType():
            return "a mapping"
        case _:
            return "any value"


def found(node: Node, private: bool) -> str:
    """A value as it is shown: cut short, and only its kind where it may be secret."""
    match node.value:
        case None:
            return "nothing (null)"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case bool() if private:
            return "true or false"
        case str() if private:
            return "text"
        case int() | float() if private:
            return "a number"
        case bool(value):
            meaning = "true" if value else "false"
            plain = node.written.lower() in ("", meaning)
            return meaning if plain else f"{meaning} (written {node.written})"
        case str(text):
            return f'the text "{clip(text)}"'
        case _:
            return f"the number {clip(node.written or str(node.value))}"


def advice(node: Node, kind: inspect.Type, private: bool) -> str:
    """What to do about a value of the wrong type, as the end of a sentence; often nothing."""
    names = expected(kind)
    value = node.value
    if value is None:
        return "; remove the key, or give it a value"
    if isinstance(value, str) and names.startswith("one of ") and not private:
        close = get_close_matches(value[:64].lower(), names[len("one of ") :].split(", "), 1)
        return f'; did you mean "{close[0]}"?' if close else ""
    if isinstance(value, bool | int | float) and _would_fit_as_text(node, kind):
        return "; put it in quotes" + ("" if private else f': "{clip(node.written)}"')
    if isinstance(value, str) and names.startswith(("a whole number", "a number")):
        return "; remove the quotes" if not node.written and _is_number(value) else ""
    if isinstance(value, str) and names == "true or false":
        return "; remove the quotes" if value in ("true", "false") else ""
    if names == "a list":
        return '; begin each item with "- "'
    return ""


def _would_fit_as_text(node: Node, kind: inspect.Type) -> bool:
    match kind:
        case inspect.Metadata(type=inner):
            return _would_fit_as_text(node, inner)
        case inspect.UnionType(types=members):
            return any(_would_fit_as_text(node, member) for member in members)
        case inspect.LiteralType(values=values):
            return node.written in values
        case _:
            return isinstance(kind, inspect.StrType)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _short(number: float | None) -> str:
    return f"{number:g}" if number is not None else "any"
