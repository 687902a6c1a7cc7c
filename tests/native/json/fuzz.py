"""Compare the scanner with its twin in Python on so many documents, mostly valid ones.

Usage: python fuzz.py DOCUMENTS SEED. Prints how many of these were accepted.
"""

import random
import sys

from prism.calls.json_text import IS_COMPILED, is_params, is_params_in_python

SPACES = ["", "", "", " ", "\n", "\r\n\t  "]
TEXTS = ["a", "é", "\U0001f600", "x" * 15, "y" * 16, "12345678-12345678", "/", "\x7f", "1e999"]
ESCAPES = [r"\n", r"\"", r"\\", r"\/", r"\u0061", r"\u00e9", r"\ud83d\ude00", r"\u0000"]
NUMBERS = ["0", "-1", "1.5", "2e308", "1e-9", "9" * 308, "1" + "0" * 308, "1e0100", "0.1e309"]
BROKEN = [
    *(b"\\", b'"', b",", b":", b"{", b"}", b"[", b"]", b"\0", b"\n", b"\xff", b"\xed\xa0\x80"),
    *(b"\xc3", b"\\ud800", b"e9", b"0", b"-", b".", b"\xe6\x97", b"t", b"null", b'"a":1,'),
]


def string(draw: random.Random) -> str:
    pieces = draw.choices(TEXTS + ESCAPES, k=draw.choice([0, 1, 1, 1, 2, 5]))
    return f'"{"".join(pieces)}"'


def value(draw: random.Random, depth: int) -> str:
    space = draw.choice(SPACES)
    match draw.randrange(7 if depth else 4):
        case 0:
            return draw.choice(["true", "false", "null", "[]", "{}"])
        case 1:
            return draw.choice(NUMBERS)
        case 2 | 3:
            return string(draw)
        case 4:
            values = [value(draw, depth - 1) for _ in range(draw.randrange(5))]
            return f"[{space}{f',{space}'.join(values)}{space}]"
        case _:
            return an_object(draw, depth - 1)


def an_object(draw: random.Random, depth: int) -> str:
    space = draw.choice(SPACES)
    size = draw.choice([0, 1, 1, 2, 3, 5, 20, 200]) if depth > 2 else draw.randrange(3)
    members = []
    for number in range(size):
        # Numbered, most keys are unlike, and only some by their middle.
        key = string(draw)[:-1] + draw.choice(
            ["", *[f"{number}{draw.choice(['', 'long tail'])}"] * 20]
        )
        members.append(f'{key}"{space}:{space}{value(draw, depth if size < 9 else 0)}')
    return f"{{{space}{f'{space},'.join(members)}{space}}}"


def broken(draw: random.Random, body: bytes) -> bytes:
    """``body`` with some bytes changed, cut, doubled or put in."""
    for _ in range(draw.choice([0, 0, 1, 1, 2])):
        place = draw.randrange(len(body) + 1)
        to = place + draw.choice([0, 1, 1, 5])
        match draw.randrange(4):
            case 0:
                body = body[:place] + draw.choice(BROKEN) + body[to:]
            case 1:
                body = body[:place] + body[to:]
            case 2:
                body = body[:to] + body[place:]
            case 3:
                body = body[:place]
    return body


def document(draw: random.Random) -> bytes:
    body = an_object(draw, 5).encode()
    if draw.random() < 0.02:
        depth = draw.choice([120, 126, 127, 128, 129])
        body = b'{"a":' + b"[" * depth + body + b"]" * depth + b"}"
    if draw.random() < 0.02:
        body = b'{"a":"' + bytes(draw.choices(b"abc", k=70_000)) + b'","b":' + body + b"}"
    return broken(draw, body)


def main(documents: str, seed: str) -> None:
    assert IS_COMPILED
    draw, accepted = random.Random(seed), 0
    for number in range(int(documents)):
        body = document(draw)
        verdict = is_params(body if number % 2 else bytearray(body))
        assert verdict == is_params_in_python(body), body
        accepted += verdict
    print(accepted)


if __name__ == "__main__":
    main(*sys.argv[1:])
