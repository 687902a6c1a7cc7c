"""The samples on the reference page. Tests load every one of them."""

SMALLEST = """\
namespaces:
  - name: notes
    backend: sqlite
    config:
      path: notes.db
"""

PLUGIN_FORMS = (
    (
        "Built in",
        "Without a `plugin` block, `backend` names the plugin. `sqlite` comes with Prism.",
        """\
namespaces:
  - name: notes
    backend: sqlite
""",
    ),
    (
        "A Python class inside the proxy",
        "No process, no encoding; a fault in it can reach the proxy.",
        """\
namespaces:
  - name: notes
    backend: sqlite
    plugin:
      type: in_process
      module: "my_package.my_module:MyPlugin"
""",
    ),
    (
        "A shared library inside the proxy",
        "The file loads and is checked, but this release cannot start the library yet.",
        """\
namespaces:
  - name: user-profiles
    backend: postgres
    plugin:
      type: in_process
      library: libprism_postgres_plugin.so
""",
    ),
    (
        "A process that Prism starts",
        "Prism starts it, watches it, restarts it, and ends it.",
        """\
namespaces:
  - name: orders
    backend: postgres
    plugin:
      type: sidecar
      command: [python3, ./plugins/orders.py]
      environment:
        LOG_LEVEL: info
    credentials:
      password: "{{ secret:orders_password }}"
""",
    ),
    (
        "A process that you start",
        "Prism makes the socket and waits for the plugin to dial in. With `dial: true` the plugin "
        "listens and Prism dials.",
        """\
namespaces:
  - name: event-stream
    backend: kafka
    plugin:
      type: sidecar
      socket: /var/run/plugins/kafka.sock
      group: kafka
""",
    ),
    (
        "A plugin on another machine",
        "`type` is `remote` for frames over TCP, `grpc` for a gRPC server, or `websocket` for "
        "frames inside a WebSocket, whose `endpoint` is a URL such as `wss://example.com/plugin`. "
        "Plain text is possible to loopback only, with `insecure: true`.",
        """\
namespaces:
  - name: warehouse
    backend: clickhouse
    plugin:
      type: remote
      endpoint: "plugin.example.com:50100"
      tls:
        ca_cert: tls/ca.pem
        cert: tls/proxy.pem
        key: tls/proxy.key
""",
    ),
    (
        "From the catalogue",
        "Describe a plugin once, in as many versions as you keep, and refer to it by name. A "
        "version's keys replace the entry's one by one, and `{version}` in the entry's paths is "
        "replaced by the version's name (in a `module` with `_` for what a module's name cannot "
        "hold: `orders_{version}` is `orders_v1_3`). `prism plugin verify` prints digests.",
        """\
plugins:
  - name: orders
    type: sidecar
    command: /opt/orders/{version}/plugin
    versions:
      v1.2: {sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b}
      v1.3: {environment: {LOG_LEVEL: debug}}
namespaces:
  - name: orders-eu
    backend: postgres
    plugin: {name: orders, version: v1.3}
""",
    ),
)
"""(title, explanation, YAML) of every way to describe a plugin."""

BROKEN = """\
listen:
  address: 0.0.0.0
namespaces:
  - name: Orders
    backend: sqlite
    limits:
      max_inflight: 100
    credentials:
      password: 12345
  - name: events
    backend: kafka
    plugin:
      type: in_process
      socket: /run/kafka.sock
"""
"""A file with mistakes of five kinds, for the section on messages."""
