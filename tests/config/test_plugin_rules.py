"""Rules that concern the keys of one plugin, and the settings that it takes."""

from collections.abc import Callable

import pytest

from prism.config import parse_config
from prism.config.catalogue import BUILT_IN, resolve_plugin
from tests.config.conftest import namespace

Problems = Callable[[str], list[str]]


@pytest.mark.parametrize(
    ("isolation", "problem"),
    [
        ("egress: [db]", """'db' is not a "host:port", such as "db.internal:5432\""""),
        ("egress: ['a:1', {to: 'b:x'}]", "the port is a number from 1 to 65535, or *"),
        ("egress: [{tls: {}}]", 'the required key "to" is missing'),
        ("egress: [{to: 'unix:/a', tls: {}}]", "there is no TLS over a Unix socket"),
        ("egress: ['10.1.0.0/8:1']", "the network is 10.0.0.0/8"),
        ("egress: [], network: none", 'it goes without "network", which says all or nothing'),
        ("egress: [], sandbox: 'off'", 'it means nothing with "sandbox: off"'),
    ],
)
def test_destinations(isolation: str, problem: str, problems: Problems) -> None:
    text = namespace("type: sidecar, command: a") + f"    isolation: {{{isolation}}}\n"
    [found] = problems(text)
    assert problem in found


def test_a_plugin_with_destinations_is_not_met_on_a_socket(problems: Problems) -> None:
    text = namespace("type: sidecar, command: a, socket: /b")
    [found] = problems(text + "    isolation: {egress: []}\n")
    assert "let it take the connection it is given" in found


def test_destinations_of_a_namespace_stand_for_the_network_of_all() -> None:
    text = "isolation: {network: none}\n" + namespace("type: sidecar, command: a")
    config = parse_config(text + "    isolation: {egress: []}\n", "prism.yaml").config
    [one] = config.namespaces
    assert one.isolation.over(config.isolation).egress == []
    assert one.isolation.over(config.isolation).network is None


@pytest.mark.parametrize(
    ("plugin", "problem"),
    [
        ("type: in_process, socket: s", '"socket" belongs to type sidecar, not in_process'),
        ("type: sidecar, module: 'a:B'", '"module" belongs to type in_process, not sidecar'),
        ("type: sidecar, insecure: true", '"insecure" belongs to type remote or grpc or websocket'),
        ("type: in_process", 'type in_process needs "module" or "library"'),
        ("type: grpc", 'type grpc needs "endpoint"'),
        ("type: wasm", 'type wasm needs "file"'),
        ("type: in_process, file: a", '"file" belongs to type wasm, not in_process'),
        ("type: sidecar, command: a, wasm: {}", '"wasm" belongs to type wasm, not sidecar'),
        ("type: wasm, file: a, command: b", '"command" belongs to type sidecar, not wasm'),
        ("type: wasm, file: a, wasm: {instances: 0}", "instances"),
        ("type: wasm, file: a, wasm: {grants: {files: true}}", "grants.files: unknown key"),
        ("type: wasm, file: a, wasm: {grants: {http: ['https://a/b']}}", "and no path"),
        ("type: wasm, file: a, wasm: {grants: {http: ['unix:/a']}}", "scheme, host and port"),
        (
            "type: wasm, file: a, wasm: {grants: {http: [{origin: 'http://a', networks: [b]}]}}",
            "an IP address or network",
        ),
        ("type: sidecar, command: a, socket: b, processes: 2", "cannot share one socket"),
        ("type: sidecar, command: a, socket: b, dial: true, overlap: true", "listen at one path"),
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
        (
            "type: grpc, endpoint: ['a:1', {address: 'a:1'}], tls: {}",
            "port are those of line 4, too",
        ),
        ("type: websocket, endpoint: ['wss://a/x', 'wss://a/y']", "port are those of line 4, too"),
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


def test_several_processes_of_what_one_serves_better(problems: Problems) -> None:
    """Nobody is told to do what the next check warns against."""
    (problem,) = problems("namespaces: [{name: a, backend: sqlite, plugin: {processes: 3}}]")
    assert "is there once, and one process serves this better: of several processes" in problem
    assert "command" not in problem
