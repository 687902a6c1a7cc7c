"""The admin port is never open to other machines without a token."""

from collections.abc import Callable

import pytest

from prism.config import parse_config

Problems = Callable[[str], list[str]]

REFUSED = [
    ("address: '0.0.0.0'", "", "operators need a token"),
    ("address: '::'", "insecure: true", "operators need a token"),
    ("address: 10.0.0.1, token_file: t", "", "would pass in plain text"),
    ("address: 10.0.0.1, token_file: t, tls: {cert: c, key: k}, without_token: read", "", "probe"),
    ("address: 10.0.0.1, token_file: t, without_token: change", "insecure: true", "probe"),
    ("address: example.com", "", 'an IP address or "localhost", or unix:'),
    ("address: 'unix:admin.sock'", "", "an absolute path is expected"),
    ("address: 'unix:'", "", "an absolute path is expected"),
    (f"address: 'unix:/{'x' * 107}'", "", "at most 107 are possible"),
    ("address: 'unix:/run/a', tls: {cert: c, key: k}", "", "not served with TLS"),
]
ACCEPTED = [
    ("address: 10.0.0.1, token_file: t, tls: {cert: c, key: k}", ""),
    ("address: 10.0.0.1, token_file: t", "insecure: true"),
    ("address: 10.0.0.1, token_file: t, tls: {cert: c, key: k}, without_token: probe", ""),
    ("address: '::1', without_token: change", ""),
    ("token_file: t, without_token: read", ""),
    ("address: 'unix:/run/prism/admin.sock'", ""),
    ("enabled: false, address: 10.0.0.1", ""),
]


@pytest.mark.parametrize(("admin", "rest", "why"), REFUSED)
def test_refused(problems: Problems, admin: str, rest: str, why: str) -> None:
    (problem,) = problems(f"admin: {{{admin}}}\n{rest}\n")
    assert why in problem


@pytest.mark.parametrize(("admin", "rest"), ACCEPTED)
def test_accepted(admin: str, rest: str) -> None:
    assert parse_config(f"admin: {{{admin}}}\n{rest}\n", "f")
