"""Rules that concern several keys, section by section."""

from collections.abc import Callable

import pytest

from prism.config import parse_config
from prism.config.catalogue import BUILT_IN, resolve_plugin
from prism.config.errors import ConfigError
from prism.config.plugin_types import PluginConfig
from prism.config.rules import ENVELOPE_BYTES
from prism.config.types import Config, NamespaceLimits
from prism.server.settings import ServerSettings

Problems = Callable[[str], list[str]]


def namespace(plugin: str, name: str = "a") -> str:
    return f"namespaces:\n  - name: {name}\n    backend: kafka\n    plugin: {{{plugin}}}\n"


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


@pytest.mark.parametrize(
    ("plugin", "problem"),
    [
        ("type: in_process, socket: s", '"socket" belongs to type sidecar, not in_process'),
        ("type: sidecar, module: 'a:B'", '"module" belongs to type in_process, not sidecar'),
        ("type: sidecar, insecure: true", '"insecure" belongs to type remote or grpc or websocket'),
        ("type: in_process", 'type in_process needs "module" or "library"'),
        ("type: grpc", 'type grpc needs "endpoint"'),
        ("type: sidecar, command: a, socket: b", 'either "command" or "socket", not both'),
        ("type: sidecar, socket: a, environment: {}", '"environment" means nothing without "comm'),
        ("type: sidecar, command: a, dial: true", '"dial" means nothing without "socket"'),
        ("type: sidecar, socket: a, signature: s", '"signature" means nothing without "library"'),
        ("type: in_process, library: a, path: p", '"path" means nothing without "module"'),
        ("type: sidecar, command: 'a/{version}'", "{version} means nothing without a version"),
        ("type: in_process, module: 'a:B', name: n", '"name" refers to the catalogue and cannot'),
        ("type: sidecar, command: a, version: v1", '"version" refers to the catalogue and cannot'),
        ("command: a", '"command" needs "type: sidecar" beside it'),
        ("name: sqlite, module: 'a:B'", '"module" cannot stand beside "name"'),
        ('type: sidecar, command: "a \'b"', "cannot be split into words: no closing quotation"),
        ("type: sidecar, command: '  '", "the command names no program"),
        ("type: sidecar, command: ['']", "the command names no program"),
        ("type: sidecar, command: []", "the list is empty"),
        ("type: sidecar, socket: a, mode: '0660'", 'mode "0660" needs a "group"'),
        ("type: sidecar, socket: a, mode: 0600", "as octal; put it in quotes"),
        ("type: sidecar, socket: a, mode: '0666'", "expected one of 0600, 0660"),
        ("type: sidecar, socket: a, dial: true, group: g", "the plugin makes the socket"),
        (f"type: sidecar, socket: /{'s' * 107}", "has 108 bytes; at most 107"),
        (f"type: sidecar, socket: {'é' * 49}", "has 109 bytes; at most 107"),
        ("type: grpc, endpoint: 'http://a:1'", "write host:port, without a scheme"),
        ("type: grpc, endpoint: 'a:1'", "a is not this machine: add a `tls` block"),
        ("type: grpc, endpoint: 'a:1', insecure: true", "a is not this machine"),
        ("type: grpc, endpoint: 'a:1', tls: {enabled: false}", "a is not this machine"),
        ("type: grpc, endpoint: 'localhost:1'", 'plain text needs "insecure: true"'),
        ("type: websocket, endpoint: 'http://a/'", "write wss://host/path, or ws:// for loopback"),
        ("type: websocket, endpoint: 'ws://a/'", "a is not this machine"),
        ("type: websocket, endpoint: 'ws://[::1]/'", 'plain text needs "insecure: true"'),
        ("type: grpc, endpoint: 'a:1', tls: {cert: c}", '"cert" and "key" go together'),
        ("type: in_process, module: 'a:B', processes: 2", "run it by a `command`"),
        ("type: sidecar, socket: a, processes: 2", "the proxy starts several by a `command`"),
        ("type: grpc, endpoint: 'a:1', tls: {}, processes: 2", "reached at its `endpoint`"),
        ("type: sidecar, command: a, processes: 2, overlap: false", "so it cannot have replicas"),
        ("type: grpc, endpoint: []", "the list is empty"),
        ("type: grpc, endpoint: [{zone: a}], tls: {}", 'the required key "address" is missing'),
        ("type: grpc, endpoint: ['b:2', 'a'], tls: {}", "write host:port"),
        ("type: grpc, endpoint: [{address: 'a:1'}], insecure: true", "a is not this machine"),
        ("type: grpc, endpoint: ['a:1', {address: 'a:1'}], tls: {}", "the one of line 4, too"),
        ("type: grpc, endpoint: ['a:1'], tls: {}, resolve: all", "goes with one `endpoint`"),
        ("type: grpc, endpoint: '10.0.0.1:1', tls: {}, resolve: all", "10.0.0.1 is an address"),
        ("type: websocket, endpoint: 'wss://[::1]/', resolve: all", "::1 is an address"),
        ("type: sidecar, command: a, resolve: all", "it is not reached at an `endpoint`"),
        ("type: grpc, endpoint: ['a:1'], tls: {}, overlap: false", "so it cannot have replicas"),
        (
            "type: sidecar, command: a, balance: {slow_start_seconds: 1}",
            "there is one replica, which gets all calls",
        ),
        ("name: redis, processes: 2", "a plugin in the proxy's own process is there once"),
    ],
)
def test_keys_that_do_not_go_together(problems: Problems, plugin: str, problem: str) -> None:
    found = problems(namespace(plugin))
    assert len(found) == 1, found
    assert problem in found[0]
    assert found[0].startswith("4:")
    assert "namespaces[0].plugin" in found[0]


@pytest.mark.parametrize(
    "plugin",
    [
        "type: in_process, module: 'a:B', library: null",
        "type: sidecar, command: a, environment: {A: b}, sha256: '" + "0" * 64 + "'",
        f"type: sidecar, socket: /{'s' * 106}",
        "type: sidecar, socket: s, dial: true",
        "type: websocket, endpoint: '[::1]:1', insecure: true",
        "type: websocket, endpoint: 'ws://localhost/a', insecure: true",
        "type: websocket, endpoint: 'wss://a.example/b'",
        "type: remote, endpoint: 'a:1', tls: {}",
        "type: sidecar, command: a, processes: 2, balance: {max_ejected: 0}",
        "type: grpc, endpoint: ['a:1', {address: 'b:1', zone: ''}], tls: {}, balance: {}",
        "type: websocket, endpoint: ['wss://a/x', 'wss://b/x']",
        "type: remote, endpoint: 'a.example:1', tls: {}, resolve: all, resolve_seconds: 5",
    ],
)
def test_keys_that_go_together(plugin: str) -> None:
    (loaded,) = parse_config(namespace(plugin), "/f").config.namespaces
    assert loaded.plugin.type is not None


def test_zones_of_endpoints_need_the_proxy_s_own() -> None:
    text = namespace("type: grpc, endpoint: [{address: 'a:1', zone: x}], tls: {}")
    [warning] = parse_config(text, "f").warnings
    assert 'it means nothing without "zone" at the top level' in str(warning)
    assert not parse_config(f"zone: y\n{text}", "f").warnings


def test_what_several_processes_do_not_share() -> None:
    command = "command: [python, -m, prism_plugins.{}], processes: 2"
    sqlite = (
        "namespaces:\n  - name: a\n    backend: sqlite\n    config: {path: /a.db}\n"
        f"    plugin: {{type: sidecar, {command.format('sqlite')}}}\n"
    )
    [warning] = parse_config(sqlite, "f").warnings
    assert "one process serves this better: of several processes on one file" in str(warning)
    redis = sqlite.replace("sqlite", "redis").replace("path: /a.db", "url: 'redis://127.0.0.1'")
    redis = redis.replace("    config", "    cache: {operations: [get]}\n    config")
    told = [str(one) for one in parse_config(redis, "f").warnings]
    assert any("shows there up to 30 s later" in one for one in told), told


def test_versions_of_endpoints() -> None:
    text = (
        "plugins:\n  - {name: p, type: grpc, tls: {}, versions: {v1: {}},"
        " endpoint: ['a-{version}:1', {address: 'b-{version}:1', zone: x}]}\n"
        "namespaces: [{name: n, backend: p}]\n"
    )
    config = parse_config(text, "f").config
    plugin = resolve_plugin(config, config.namespaces[0])
    assert [one.address for one in plugin.endpoints] == ["a-v1:1", "b-v1:1"]
    assert plugin.has_replicas


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


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("type: in_process", 'type in_process needs "module" or "library"'),
        ("type: sidecar, command: a, endpoint: 'a:1'", '"endpoint" belongs to type remote'),
        ("type: sidecar, socket: s", "unknown key (accepted:"),
        ("type: grpc, endpoint: 'a:1'", "a is not this machine"),
        ("type: sidecar, versions: {v1: {}}", 'type sidecar needs "command"'),
        ("type: sidecar, versions: {v1: {module: 'a:B'}}", '"module" belongs to type in_process'),
        ("type: sidecar, versions: {1.2: {command: a}}", "this key is not text"),
        ("type: grpc, versions: {v1: {endpoint: 'a:1'}}", "a is not this machine"),
        ("type: in_process, module: 'a:B', versions: {v1: {library: l}}", "not both"),
        ('type: sidecar, command: "a \'b", versions: {v1: {}, v2: {}}', "split into words"),
        ("type: grpc, endpoint: a, tls: {}, versions: {v1: {}, v2: {}}", "write host:port"),
    ],
)
def test_wrong_catalogue_entries(problems: Problems, entry: str, problem: str) -> None:
    found = problems(f"plugins:\n  - {{name: p, {entry}}}\n")
    assert len(found) == 1, found
    assert problem in found[0]


def test_versions_share_what_the_entry_says() -> None:
    text = """
plugins:
  - name: p
    type: grpc
    tls: {ca_cert: ca.pem}
    versions: {v1: {endpoint: "a:1"}, v2: {endpoint: "b:1"}}
"""
    assert len(parse_config(text, "f").config.plugins[0].versions) == 2


def test_an_unknown_plugin(problems: Problems) -> None:
    text = """\
plugins:
  - {name: orders, type: sidecar, versions: {v1: {command: a}, v2: {command: b}}}
namespaces:
  - {name: a, backend: b, plugin: {name: ordrs}}
  - {name: b, backend: b, plugin: {name: orders}}
  - {name: c, backend: b, plugin: {name: orders, version: v3}}
  - {name: d, backend: mongodb}
"""
    built_in = ", ".join(BUILT_IN)
    assert problems(text) == [
        '4:42: namespaces[0].plugin.name: there is no plugin "ordrs"; did you mean "orders"? '
        f"(the catalogue has: orders; built in: {built_in})",
        '5:42: namespaces[1].plugin.name: the plugin "orders" needs a version, one of: v1, v2',
        '6:59: namespaces[2].plugin.version: version "v3" of plugin "orders" is not in the '
        "catalogue; there are v1, v2",
        '7:24: namespaces[3].backend: there is no plugin "mongodb" '
        f"(the catalogue has: orders; built in: {built_in}); or describe it in `plugin:`",
    ]


def test_a_backend_is_checked_beside_other_faults_of_its_namespace(problems: Problems) -> None:
    text = "namespaces: [{name: a, backend: sqlit, limit: 1}, {name: b, backend: sqlite, limit: 1}]"
    first, second, third = problems(text)
    assert first.startswith('1:33: namespaces[0].backend: there is no plugin "sqlit"; did you mean')
    assert second.startswith("1:40: namespaces[0].limit: unknown key")
    assert "namespaces[1].limit: unknown key" in third


WHOLE = {
    "postgres": "connection_string: 'postgresql://h/d'",
    "redis": "max_in_flight: 7",
    "kafka": "brokers: [a], topic_prefix: ''",
}


def test_a_driver_that_is_not_installed_is_no_fault_of_the_file(lacking: str) -> None:
    text = f"namespaces: [{{name: a, backend: {lacking}, config: {{{WHOLE[lacking]}}}}}]"
    assert parse_config(text, "f").warnings == ()  # prism.control.machine says it


def test_without_its_driver_a_plugin_s_settings_are_checked_all_the_same(
    problems: Problems, lacking: str
) -> None:
    settings = f"config: {{{WHOLE[lacking]}, colour: red}}, credentials: {{pasword: x}}"
    unknown, credential = problems(f"namespaces: [{{name: a, backend: {lacking}, {settings}}}]")
    assert "namespaces[0].config.colour: unknown key" in unknown
    assert 'credentials.pasword: unknown credential; did you mean "password"?' in credential


@pytest.mark.parametrize("backend", ["sqlite", *WHOLE])
def test_a_credential_that_the_plugin_does_not_take(problems: Problems, backend: str) -> None:
    wrong = "{pasword: x, user: Jane, foo: doe}"
    settings = f"config: {{{WHOLE.get(backend, '')}}}, credentials: {wrong}"
    found = problems(f"namespaces: [{{name: a, backend: {backend}, {settings}}}]")
    said = [problem.partition("credentials.")[2].partition(" (")[0] for problem in found]
    if backend == "sqlite":
        takes = "unknown credential; this plugin takes none"
        assert said == [f"{name}: {takes}" for name in ("pasword", "user", "foo")]
    else:
        assert said == [
            'pasword: unknown credential; did you mean "password"?',
            'user: unknown credential; did you mean "username"?',
            "foo: unknown credential",
        ]
    assert "Jane" not in str(found)


@pytest.mark.parametrize(
    ("backend", "key"),
    [
        ("postgres", "connect_timeout"),
        ("redis", "connect_timeout_seconds"),
        ("kafka", "connect_timeout_seconds"),
    ],
)
@pytest.mark.parametrize(("seconds", "warned"), [(7, True), (8, True), (6.9, False)])
def test_who_is_out_of_time_with_its_start_cannot_say_why(
    backend: str, key: str, seconds: float, warned: bool
) -> None:
    settings = (
        f"config: {{{WHOLE[backend]}, {key}: {seconds}}}, plugin: {{start_timeout_seconds: 7}}"
    )
    warnings = parse_config(
        f"namespaces: [{{name: a, backend: {backend}, {settings}}}]", "f"
    ).warnings
    assert [each.path for each in warnings] == [f"namespaces[0].config.{key}"] * warned
    if warned:
        assert "the plugin has 7 s to start (plugin.start_timeout_seconds)" in warnings[0].message


def test_another_plugin_s_credentials_are_its_own() -> None:
    text = (
        "namespaces: [{name: a, backend: mine, plugin: {type: sidecar, command: x}, "
        "credentials: {foo: '{{ secret:foo }}'}}]"
    )
    assert parse_config(text, "f").config.namespaces[0].credentials == {"foo": "{{ secret:foo }}"}


def test_all_mistakes_in_a_plugin_s_settings_are_told_together(problems: Problems) -> None:
    text = """\
namespaces:
  - name: a
    backend: redis
    limit: 1
    config:
      url: redis://h/zero
      max_in_flight: many
      sentinel: {name: m, addresses: ["s:1", "t", "http://u:1"]}
      allowed_commands: [GET, EVAL, HGE]
      client_key: k.pem
    credentials: {pasword: x, sentinel_username: y}
  - name: b
    backend: kafka
    config:
      topic_prefix: "a b!"
      brokers: ["a:b", "http://h:9092", "[localhost]", "h:9092", "a:1,b:2", "a b", "[::1]:70000"]
      tls: {cert: c.pem}
      sasl_mechanism: SCRAM
      session_timeout_seconds: 0
    credentials: {password: x}
  - name: c
    backend: postgres
    config: {pool_size: 0, connection_string: "postgresql://h/d?sslmod=require"}
    credentials: {pasword: x}
"""
    found = [each.partition(": ")[2] for each in problems(text)]
    assert [each.partition(": ")[0].removeprefix("namespaces") for each in found] == [
        "[0].limit",
        "[0].config.url",
        "[0].config.max_in_flight",
        "[0].config.sentinel.addresses[1]",
        "[0].config.sentinel.addresses[2]",
        "[0].config.allowed_commands[1]",
        "[0].config.allowed_commands[2]",
        "[0].config.client_key",
        "[0].credentials.pasword",
        "[0].credentials.sentinel_username",
        "[1].config.topic_prefix",
        *(f"[1].config.brokers[{index}]" for index in (0, 1, 2, 4, 5, 6)),
        "[1].config.tls",
        "[1].config.sasl_mechanism",
        "[1].config.session_timeout_seconds",
        "[1].credentials",
        "[2].config.pool_size",
        "[2].config.connection_string",
        "[2].credentials.pasword",
    ]


@pytest.mark.parametrize(
    ("namespace", "problem"),
    [
        ("postgres", 'config: the required key "connection_string" is missing'),
        ("postgres, config: {}", 'config: the required key "connection_string" is missing'),
        (
            "postgres, config: {connection_string: 'mysql://h/d'}",
            "config.connection_string: it cannot be read",
        ),
        (
            "postgres, config: {connection_string: 'postgresql://Jane@h/d'}",
            "config.connection_string: it has a username, which belongs into credentials.username",
        ),
        (
            "postgres, config: {connection_string: 'host=h'}, credentials: {user: Jane}",
            'credentials.user: unknown credential; did you mean "username"?',
        ),
        ("redis, config: {url: 'http://h'}", "config.url: it begins with redis://"),
        ("redis, config: {url: '127.0.0.1:7219'}", "config.url: it begins with redis://"),
        ("redis, config: {url: 'redis://h/zero'}", "config.url: after the port stands the number"),
        ("redis, config: {allowed_commands: [EVAL]}", "config.allowed_commands[0]: EVAL cannot"),
        (
            "redis, config: {sentinel: {name: m, addresses: [h]}}",
            "config.sentinel.addresses[0]: expected host:port",
        ),
        ("kafka", 'config: the required key "brokers" is missing'),
        ("kafka, config: {brokers: ['h:1']}", 'config: the required key "topic_prefix" is'),
        ("kafka, config: {brokers: ['h:1'], topic_prefix: '', stall: 1}", "config.stall: unknown"),
        (
            "kafka, config: {brokers: ['Jane:doe@h:1'], topic_prefix: ''}",
            "config.brokers[0]: expected host:port, without user and password",
        ),
        (
            "kafka, config: {brokers: ['h:1'], topic_prefix: '', tls: {cert: c}}",
            "config.tls: cert and key go together",
        ),
        (
            "kafka, config: {brokers: ['h:1'], topic_prefix: ''}, credentials: {user: Jane}",
            'credentials.user: unknown credential; did you mean "username"?',
        ),
        (
            "x, plugin: {type: sidecar, command: python -m prism_plugins.redis}, config: {url: h}",
            "config.url: it begins with redis://",
        ),
    ],
)
def test_what_a_plugin_of_prism_would_refuse_at_its_start(
    problems: Problems, namespace: str, problem: str
) -> None:
    found = problems(f"namespaces: [{{name: a, backend: {namespace}}}]")
    assert f" namespaces[0].{problem}" in str(found)
    assert "Jane" not in str(found)


def test_what_plugins_of_prism_would_take() -> None:
    loaded = parse_config(
        """
namespaces:
- {name: a, backend: redis, config: {allowed_commands: [get, SET], url: 'rediss://h:1/2'}}
- {name: b, backend: postgres, config: {connection_string: 'postgresql://h/d?sslmode=require'}}
- name: c
  backend: kafka
  config: {brokers: ['h:1'], topic_prefix: '', tls: {ca_cert: on-another-machine.pem}}
  credentials: {username: '{{ secret:user }}', password: '{{ secret:password }}'}
""",
        "f",
    )
    assert [namespace.name for namespace in loaded.config.namespaces] == ["a", "b", "c"]


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
        ("{loop_lag_seconds: null}", "shedding: nothing is looked at, unless the memory of"),
        ("{loop_lag_seconds: 0.005}", "shedding.loop_lag_seconds: an event loop is 0.005 s late"),
        ("{loop_lag_seconds: null, memory_bytes: 1073741824}", None),
        ("{loop_lag_seconds: 0.01}", None),
    ],
)
def test_shedding_by_nothing_or_by_noise_is_told(shedding: str, said: str | None) -> None:
    text = f"shedding: {shedding}\nnamespaces: [{{name: a, backend: sqlite}}]"
    warnings = [str(one).partition(": ")[2] for one in parse_config(text, "f").warnings]
    assert [one[: len(said or "")] for one in warnings] == ([said] if said else [])


def test_several_processes_of_what_one_serves_better(problems: Problems) -> None:
    """Nobody is told to do what the next check warns against."""
    (problem,) = problems("namespaces: [{name: a, backend: sqlite, plugin: {processes: 3}}]")
    assert "is there once, and one process serves this better: of several processes" in problem
    assert "command" not in problem


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
