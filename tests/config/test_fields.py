"""The forms of texts; that messages have words for them is tested with the types' check."""

from typing import Any

import msgspec
import pytest

from prism.config import fields
from prism.config.fields import PUBLIC_KEY_PREFIX, WEAK_KEYS, is_weak, public_bytes

KEY = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *[(fields.Name, text) for text in ("a", "7", "user-profiles", "a" * 63)],
        *[(fields.Version, text) for text in ("v1.2", "1", "2024-01-31", "1.0+build_7")],
        *[(fields.Origin, text) for text in ("null", "https://a.example", "http://[::1]:80")],
        *[(fields.PythonClass, text) for text in ("a:B", "a.b.c:D_1", "p_{version}.m:C")],
        (fields.Digest, "0123456789abcdef" * 4),
        (fields.PublicKey, KEY),
        *[(fields.Revoked, text) for text in ("0" * 16, "f" * 64)],
        *[(fields.Day, text) for text in ("2030-12-31", "2024-02-30")],
    ],
)
def test_a_text_of_the_right_form(kind: Any, text: str) -> None:
    assert msgspec.convert(text, kind) == text
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text + "\n", kind)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *[(fields.Name, t) for t in ("", "-a", "A", "a_b", "a.b", "a/b", "a" * 64, "ä")],
        *[(fields.Version, text) for text in ("", ".1", "-1", "v 1", "v/1", "a" * 64)],
        *[(fields.Origin, t) for t in ("", "*", "a.example", "https://a/", "https://u@a", "//a")],
        *[(fields.PythonClass, text) for text in ("a", "a:", ":B", "a:B.C", "1a:B", "a{v}:B")],
        *[(fields.Digest, text) for text in ("0" * 63, "0" * 65, "G" * 64, "A" * 64)],
        *[(fields.PublicKey, text) for text in (KEY[:-1], KEY[8:], KEY + "=", KEY.upper())],
        *[(fields.Revoked, text) for text in ("0" * 15, "0" * 17, "0" * 63)],
        *[(fields.Day, text) for text in ("2030-13-01", "2030-00-01", "2030-1-1", "2030-01-32")],
        (fields.PathText, ""),
    ],
)
def test_a_text_of_a_wrong_form(kind: Any, text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, kind)


def test_a_public_key_is_32_bytes() -> None:
    assert KEY.startswith(PUBLIC_KEY_PREFIX)
    assert len(public_bytes(KEY)) == 32
    assert not is_weak(public_bytes(KEY))


@pytest.mark.parametrize("point", sorted(WEAK_KEYS), ids=bytes.hex)
def test_a_point_that_is_no_key_is_weak_whatever_its_sign(point: bytes) -> None:
    assert is_weak(point)
    assert is_weak(point[:-1] + bytes([point[-1] | 0x80]))
