"""Rules that concern several keys, section by section."""

from collections.abc import Callable

import pytest

from prism.config import parse_config
from prism.config.errors import ConfigError
from prism.config.plugin_types import PluginConfig
from prism.config.rules import ENVELOPE_BYTES
from prism.config.types import Config, NamespaceLimits
from prism.server.settings import ServerSettings
from tests.config.conftest import namespace

Problems = Callable[[str], list[str]]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_permission(address: str) -> None:
    text = f"listen: {{address: '{address}'}}\nadmin: {{address: '{address}'}}\n"
    assert parse_config(text, "f").config.listen.address == address


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1"])
def test_other_addresses_need_insecure(problems: Problems, address: str) -> None:
    text = f"listen: {{address: '{address}'}}\n"
    (problem,) = problems(text)
    assert f"listen.address: {address} can be reached from other machines" in problem
    warnings = parse_config(text + "insecure: true\n", "f").warnings
    said = f"all who can reach {address} may call every namespace: clients are not authenticated"
    assert [str(w) for w in warnings if w.path == "listen.address"] == [
        f"f:1:19: listen.address: {said}"
    ]


def test_what_passes_in_plain_text_beyond_loopback_is_said() -> None:
    text = """
insecure: true
listen: {address: 0.0.0.0}
authentication: {api_keys: {file: keys}}
admin: {address: 10.0.0.1, token_file: t}
namespaces: [{name: a, backend: sqlite, access: {owners: [b]}}]
"""
    data, admin = map(str, parse_config(text, "f").warnings)
    assert data.startswith("f:3:19: listen.address: what clients show passes in plain text at 0.0")
    assert admin.startswith("f:5:18: admin.address: the tokens of operators pass in plain text at")
    secure = text.replace("0.0.0.0}", "0.0.0.0, tls: {cert: c, key: k}}")
    secure = secure.replace("token_file: t}", "token_file: t, tls: {cert: c, key: k}}")
    assert parse_config(secure, "f").warnings == ()


def test_an_admin_port_that_is_off_needs_no_permission() -> None:
    assert parse_config("admin: {enabled: false, address: 0.0.0.0, port: 50051}\n", "f")


def test_a_host_name_is_no_address(problems: Problems) -> None:
    assert problems("listen: {address: example.com}") == [
        '1:19: listen.address: expected an IP address or "localhost"'
    ]


ADMIN_REFUSED = [
    ("address: '0.0.0.0'", "", "operators need a token"),
    ("address: '::'", "insecure: true", "operators need a token"),
    ("address: 10.0.0.1, token_file: t", "", "would pass in plain text"),
    ("address: 10.0.0.1, token_file: t, tls: {cert: c, key: k}, without_token: read", "", "probe"),
    ("address: 10.0.0.1, token_file: t, without_token: change", "insecure: true", "probe"),
    ("allow: [{who: [ann]}]", "", 'not known without "authentication"'),
    ("allow: [{who: ['group:']}]", "authentication: {api_keys: {file: k}}", "named in full"),
    (
        "address: 10.0.0.1, allow: [{who: [ann]}]",
        "authentication: {api_keys: {file: k}}",
        "would pass in plain text",
    ),
    ("address: example.com", "", 'an IP address or "localhost", or unix:'),
    ("address: 'unix:admin.sock'", "", "an absolute path is expected"),
    ("address: 'unix:'", "", "an absolute path is expected"),
    (f"address: 'unix:/{'x' * 107}'", "", "at most 107 are possible"),
    ("address: 'unix:/run/a', tls: {cert: c, key: k}", "", "not served with TLS"),
]
ADMIN_ACCEPTED = [
    ("address: 10.0.0.1, token_file: t, tls: {cert: c, key: k}", ""),
    ("address: 10.0.0.1, token_file: t", "insecure: true"),
    ("address: 10.0.0.1, tokens: [{name: a, file: t}]", "insecure: true"),
    ("address: 10.0.0.1, token_file: t, tls: {cert: c, key: k}, without_token: probe", ""),
    ("address: '::1', without_token: change", ""),
    ("token_file: t, without_token: read", ""),
    ("address: 'unix:/run/prism/admin.sock'", ""),
    (
        "address: 10.0.0.1, allow: [{who: [ann]}], tls: {cert: c, key: k}",
        "authentication: {api_keys: {file: k}}",
    ),
    ("enabled: false, address: 10.0.0.1", ""),
]


@pytest.mark.parametrize(("admin", "rest", "why"), ADMIN_REFUSED)
def test_an_admin_port_that_is_refused(problems: Problems, admin: str, rest: str, why: str) -> None:
    (problem,) = problems(f"admin: {{{admin}}}\n{rest}\n")
    assert why in problem


@pytest.mark.parametrize(("admin", "rest"), ADMIN_ACCEPTED)
def test_an_admin_port_that_is_accepted(admin: str, rest: str) -> None:
    warnings = parse_config(f"admin: {{{admin}}}\n{rest}\n", "f").warnings
    assert "there are no namespaces" in str(warnings[0])


def test_both_ports_must_differ(problems: Problems) -> None:
    assert problems("admin: {port: 50051}") == [
        "1:15: admin.port: port 50051 is already that of `listen`"
    ]
    assert parse_config("listen: {port: 0}\nadmin: {port: 0}\n", "f")


def test_names_are_unique(problems: Problems) -> None:
    text = """\
plugins:
  - {name: p, type: sidecar, command: a}
  - {name: p, type: sidecar, command: b}
namespaces:
  - {name: a, backend: sqlite}
  - {name: a, backend: sqlite, wrong: 1}
"""
    found = problems(text)
    assert found[0] == '3:12: plugins[1].name: the name "p" is taken by line 2'
    assert found[1] == '6:12: namespaces[1].name: the name "a" is taken by line 5'
    assert "unknown key" in found[2]


def test_sockets_are_unique_however_written(problems: Problems) -> None:
    text = """\
namespaces:
  - {name: a, backend: k, plugin: {type: sidecar, socket: k.sock}}
  - {name: b, backend: k, plugin: {type: sidecar, socket: /etc/prism/x/../k.sock}}
"""
    assert problems(text) == [
        "3:59: namespaces[1].plugin.socket: the socket is taken by line 2; "
        "each namespace needs its own"
    ]


def test_what_a_client_may_send_fits_into_a_frame(problems: Problems) -> None:
    assert problems(namespace("max_frame_bytes: 1024, type: sidecar, command: a")) == [
        "2:5: namespaces[0].limits.max_payload_bytes: 1048576 bytes do not fit into a frame; "
        "the plugin's max_frame_bytes is 1024"
    ]


def test_a_frame_has_room_for_a_body_and_its_metadata() -> None:
    text = namespace("type: sidecar, command: a, max_frame_bytes: %d")
    (warning,) = parse_config(text % (1048576 + ENVELOPE_BYTES - 1), "f").warnings
    assert "no room for its metadata in a frame" in str(warning)
    assert f"max_frame_bytes of at least {1048576 + ENVELOPE_BYTES}" in str(warning)
    assert parse_config(text % (1048576 + ENVELOPE_BYTES), "f").warnings == ()


def test_by_default_a_drain_is_longer_than_a_call() -> None:
    longest = NamespaceLimits().timeout_seconds
    assert Config().drain_timeout_seconds > longest
    assert PluginConfig().drain_timeout_seconds > longest
    assert ServerSettings().graceful_timeout > longest


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("drain_timeout_seconds: 30", ["a stop of the proxy cuts them off after 30 s"]),
        (
            "plugin: {drain_timeout_seconds: 30, type: sidecar, command: a}",
            ["a reload of its plugin cuts them off after 30 s"],
        ),
        ("plugin: {drain_timeout_seconds: 31, type: sidecar, command: a}", []),
    ],
)
def test_a_drain_that_cuts_calls_off_is_told(text: str, told: list[str]) -> None:
    of_proxy = text if text.startswith("drain") else ""
    of_namespace = "" if of_proxy else f", {text}"
    whole = f"{of_proxy}\nnamespaces: [{{name: a, backend: sqlite{of_namespace}}}]"
    warnings = [str(warning) for warning in parse_config(whole, "f").warnings]
    assert len(warnings) == len(told)
    for warning, part in zip(warnings, told, strict=True):
        assert f"calls may take 30 s, and {part} (drain_timeout_seconds)" in warning


def test_the_usual_deadline_is_within_the_longest(problems: Problems) -> None:
    text = "namespaces: [{name: a, backend: sqlite, limits: {timeout_seconds: 301}}]"
    assert "301 seconds is more than max_timeout_seconds, which is 300" in problems(text)[0]


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ("adaptive: {min: 8, max: 7}", "adaptive.min: 8 is more than max, which is 7"),
        ("adaptive: {min: 1025}", "1025 is more than max_in_flight, which is 1024"),
        ("adaptive: {max: 65}, max_in_flight: 64", "65 calls are more than max_in_flight, which"),
        ("adaptive: {min: 0}", "expected a whole number from 1"),
        ("max_queued: -1", "expected a whole number from 0"),
    ],
)
def test_limits_of_calls_agree(problems: Problems, limits: str, told: str) -> None:
    [found] = problems(f"namespaces: [{{name: a, backend: sqlite, limits: {{{limits}}}}}]")
    assert told in found
    text = "{max_in_flight: 8, adaptive: {min: 8, max: 8}, max_queued: 5, fair_shares: true}"
    parse_config(f"namespaces: [{{name: a, backend: sqlite, limits: {text}}}]", "f")


KEY = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
NO_KEY = "ed25519:" + "A" * 43 + "="


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("{policy: require}", 'policy: "require" needs "trusted_keys" beside it'),
        ("{trusted_keys: [{name: a, key: 'ed25519:AA='}]}", '"ed25519:" and 44 characters'),
        (f"{{trusted_keys: [{{name: a, key: '{KEY}', expires: '2030-02-31'}}]}}", "no day 2030-02"),
        (f"{{trusted_keys: [{{name: a, key: '{KEY}', expires: '2030-13-01'}}]}}", "in quotes"),
        (f"{{trusted_keys: [{{name: a, key: '{NO_KEY}'}}]}}", "anybody could sign for it"),
        ("{revoked: [abc]}", "a key's id (16 hex digits) or a plugin's digest (64)"),
    ],
)
def test_a_verification_block_that_cannot_be_used(
    problems: Problems, block: str, problem: str
) -> None:
    (found,) = problems(f"verification: {block}\n")
    assert problem in found


def test_trusted_keys_are_unique(problems: Problems) -> None:
    found = problems(
        f"verification: {{trusted_keys: [{{name: a, key: '{KEY}'}}, {{name: a, key: '{KEY}'}}]}}"
    )
    assert [p.partition(": the ")[2] for p in found] == [
        'name "a" is taken by line 1',
        'key "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiM…" is taken by line 1',
    ]


def test_an_error_in_one_part_hides_none_in_another(problems: Problems) -> None:
    text = """\
verification: {policy: require, trusted_keys: [{name: A, key: x}]}
listen: {prot: 1, address: 0.0.0.0}
plugins:
  - {name: p, type: sidecar}
  - {name: q, type: sidecar, comand: x}
namespaces:
  - {name: a, backend: sqlite, backend: kafka, plugin: {type: sidecar, socket: s, mode: "0660"}}
  - {name: B, backend: sqlite}
  - {name: c, backend: sqlite, limits: {timeout_seconds: 301}}
"""
    assert [problem.partition(": ")[2].partition(": ")[0] for problem in problems(text)] == [
        "verification.trusted_keys[0].name",
        "verification.trusted_keys[0].key",
        "listen.prot",
        "listen.address",
        "plugins[0]",
        "plugins[1].comand",
        "namespaces[0].backend",
        "namespaces[0].plugin.mode",
        "namespaces[1].name",
        "namespaces[2].limits.timeout_seconds",
    ]


KEYS = "authentication: {api_keys: {file: keys.yaml}}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("authentication: {}\n", "it names no way for clients to say who they are"),
        ("namespaces: [{name: a, backend: sqlite, access: {}}]\n", "who calls is not known"),
        (
            KEYS + "namespaces: [{name: a, backend: sqlite, access: {owners: ['group:*']}}]\n",
            "a group, or a scope, is named in full",
        ),
        (
            KEYS + "namespaces: [{name: a, backend: sqlite, access: {owners: ['a*b']}}]\n",
            'a principal, one that ends in "\\*"',
        ),
        (KEYS + "listen: {address: 0.0.0.0}\n", "would pass in plain text; set tls"),
    ],
)
def test_authentication_and_access(text, problem):
    with pytest.raises(ConfigError, match=problem):
        parse_config(text, "f")


def test_authentication_and_tls_open_the_network():
    text = KEYS + "listen: {address: 0.0.0.0, tls: {cert: c, key: k}}\n"
    assert parse_config(text, "f").config.listen.address == "0.0.0.0"


def test_a_namespace_that_nobody_may_use():
    loaded = parse_config(KEYS + "namespaces: [{name: a, backend: sqlite}]\n", "f")
    assert "nobody may use this namespace" in str(loaded.warnings[0])


@pytest.mark.parametrize(
    ("who", "meant"),
    [("groups:x", "group:x"), ("Group:x", "group:x"), ("role:x", "group:x"), ("user:bob", "bob"),
     ("scopes:r", "scope:r"), ("group:x", None), ("spiffe://a/b", None), ("idp:ada", None)],
)  # fmt: skip
def test_what_people_write_for_a_group(who, meant):
    entry = f"{{name: a, backend: sqlite, access: {{owners: ['{who}']}}}}"
    loaded = parse_config(f"{KEYS}namespaces: [{entry}]\n", "f")
    told = [str(warning) for warning in loaded.warnings]
    assert [f'did you mean "{meant}"?' in each for each in told] == ([True] if meant else [])


def test_a_body_has_room_in_the_memory_for_requests(problems: Problems) -> None:
    own = "namespaces: [{name: a, backend: sqlite, limits: {request_memory_bytes: 1048575}}]"
    (problem,) = problems(own)
    assert "1048575 bytes have no room for one body; max_payload_bytes is 1048576" in problem
    (problem,) = problems(
        "listen: {limits: {request_memory_bytes: 1048575}}\n"
        "namespaces: [{name: a, backend: sqlite}]"
    )
    assert "namespaces[0].limits.max_payload_bytes: 1048576 bytes are more than all" in problem
    assert "listen.limits.request_memory_bytes is 1048575" in problem


def test_proxies_that_are_trusted_have_addresses(problems: Problems) -> None:
    text = (
        "listen: {{trusted_proxies: {{networks: [{}]}}}}\n"
        "namespaces: [{{name: a, backend: sqlite}}]"
    )
    first, second = problems(text.format("10.0.0.0/8, 10.0.0.1/8, '::1', 300.0.0.1"))
    assert "networks[1]: expected an IP address or network: 10.0.0.1/8 has host bits set" in first
    assert "networks[3]: expected an IP address or network" in second
    (problem,) = problems(text.format("proxy.example.com"))
    assert 'an IP address or network, such as "10.0.0.0/8"' in problem
    (problem,) = problems(
        "listen: {server: hypercorn, "
        "trusted_proxies: {networks: ['::1'], proxy_protocol: true}}\n"
        "namespaces: [{name: a, backend: sqlite}]"
    )
    assert "proxy_protocol: hypercorn reads no PROXY headers; use server: prism" in problem


# -- rate limits --------------------------------------------------------------

STORE = "limits_store: {url: 'redis://127.0.0.1'}\n"


def with_rate(rate: str, root: str = "") -> str:
    return f"{root}namespaces: [{{name: a, backend: sqlite, limits: {{rate: {rate}}}}}]\n"


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        ("{calls_per_second: 0}", "calls_per_second: expected a number from 1e-06 to 1000000"),
        ("{calls_per_second: 1, burst: 0}", "burst: expected a whole number from 1 to 1000000"),
        ("{burst: 1}", 'rate: the required key "calls_per_second" is missing'),
        ("[]", "rate: it has no limit in it; remove it"),
        ("{calls_per_second: 1, per: user}", "per: expected one of namespace, principal"),
        (
            "{calls_per_second: 5, costs: {scan: 6}}",
            "costs.scan: a call of 'scan' uses 6, and no more than 5 can be there at once",
        ),
        (
            "[{calls_per_second: 1}, {calls_per_second: 1, operations: [get], costs: {scan: 0}}]",
            "rate[1].costs.scan: 'scan' is not among the operations that are limited here",
        ),
        (
            "{calls_per_second: 1, when_store_is_down: deny}",
            "when_store_is_down: there is no store that could be down; set limits_store at the top",
        ),
    ],
)
def test_rates_that_cannot_be_meant(problems: Problems, rate: str, said: str) -> None:
    (problem,) = problems(with_rate(rate))
    assert said in problem


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("{url: 'http://a'}", "url: write rediss://host:6379/0, or redis:// for plain text"),
        ("{url: 'redis://:hunter2@a'}", "url: leave user and password out of the URL"),
        ("{url: 'redis://a?db=1'}", "url: the URL ends with the number of a database"),
        ("{url: 'redis://a/b'}", "url: after the host stands the number of a database"),
        ("{url: 'redis://a:0x'}", "url: the port must be a number from 1 to 65535"),
        ("{url: 'redis://a', ca_cert: c}", "ca_cert: redis: is plain text; use rediss:"),
        ("{url: 'rediss://a', username: u}", "username: it goes with password, which is not set"),
        (
            "{url: 'rediss://a', timeout_seconds: 11}",
            "timeout_seconds: expected a number from 0.001 to 10",
        ),
    ],
)
def test_stores_that_cannot_be_meant(problems: Problems, store: str, said: str) -> None:
    (problem,) = problems(with_rate("{calls_per_second: 1}", f"limits_store: {store}\n"))
    assert said in problem
    assert "hunter2" not in problem


def test_what_is_probably_not_meant_of_limits_is_told() -> None:
    def warned(text: str) -> list[str]:
        warnings = map(str, parse_config(text, "f").warnings)
        return [one for one in warnings if "coredis" not in one]  # it may not be installed

    (one,) = warned(with_rate("{calls_per_second: 1, per: principal}"))
    assert one.endswith("have one budget together; set authentication, or limit per client")
    (one,) = warned(STORE + "namespaces: [{name: a, backend: sqlite}]\n")
    assert one.endswith("no namespace has limits.rate, so there is nothing to count")
    plain = "limits_store: {url: 'redis://limits', password: '{{ secret:a }}'}\n"
    (one,) = warned(with_rate("{calls_per_second: 1, when_store_is_down: deny}", plain))
    assert one.endswith("the password passes in plain text to limits; use rediss:")


def test_one_limit_or_several() -> None:
    one = parse_config(with_rate("{calls_per_second: 1}"), "f").config.namespaces[0].limits
    two = parse_config(with_rate("[{calls_per_second: 1}, {calls_per_second: 2}]"), "f").config
    assert [rate.calls_per_second for rate in one.rates] == [1]
    assert [rate.calls_per_second for rate in two.namespaces[0].limits.rates] == [1, 2]
    assert NamespaceLimits().rates == []


# -- what has no effect, or another than was meant ----------------------------


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            "hedging: {after: 95}",
            'hedging.after: it is in seconds; did you mean the percentile "p95", or 0.095?',
        ),
        (
            "hedging: {after: 400}",
            "hedging.after: no call may take so long: limits.max_timeout_seconds is 300; "
            "it is in seconds; did you mean 0.4?",
        ),
        (
            "hedging: {after: 1}, limits: {timeout_seconds: 1, max_timeout_seconds: 1}",
            "hedging.after: no call may take so long: limits.max_timeout_seconds is 1",
        ),
        (
            "breaker: {slow_rate: 0.5}",
            "breaker.slow_rate: no call is slow without slow_seconds beside it",
        ),
        ("priority: low", "priority: it has no effect without `shedding` at the top level"),
    ],
)
def test_what_has_no_effect_is_told(keys: str, said: str) -> None:
    (warning,) = parse_config(f"namespaces: [{{name: a, backend: sqlite, {keys}}}]", "f").warnings
    assert str(warning).partition(": ")[2] == f"namespaces[0].{said}"


@pytest.mark.parametrize(
    "keys", ["hedging: {after: 10}", "hedging: {}", "breaker: {slow_rate: 0.5, slow_seconds: 1}"]
)
def test_what_has_an_effect_draws_no_warning(keys: str) -> None:
    text = f"shedding: {{}}\nnamespaces: [{{name: a, backend: sqlite, priority: low, {keys}}}]"
    assert not parse_config(text, "f").warnings


@pytest.mark.parametrize(
    ("shedding", "said"),
    [
        ("{loop_lag_seconds: 0.005}", "shedding.loop_lag_seconds: an event loop is 0.005 s late"),
        ("{loop_lag_seconds: null, memory_bytes: 1073741824}", None),
        ("{loop_lag_seconds: 0.01}", None),
    ],
)
def test_shedding_by_noise_is_told(shedding: str, said: str | None) -> None:
    text = f"shedding: {shedding}\nnamespaces: [{{name: a, backend: sqlite}}]"
    warnings = [str(one).partition(": ")[2] for one in parse_config(text, "f").warnings]
    assert [one[: len(said or "")] for one in warnings] == ([said] if said else [])


@pytest.mark.parametrize(
    "keys",
    [
        "limits: {rate: {calls_per_second: 1.0e-306, burst: 1000}}",
        "breaker: {window_seconds: 1.0e-320}",
        "hedging: {after: 0.0001}",
    ],
)
def test_numbers_with_which_nothing_can_be_computed(problems: Problems, keys: str) -> None:
    (problem,) = problems(f"namespaces: [{{name: a, backend: sqlite, {keys}}}]")
    assert "a number from" in problem
