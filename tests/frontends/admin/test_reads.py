async def test_plugins_are_listed_by_namespace(admin):
    plugins = (await admin.ask("GET", "/admin/plugins")).json["plugins"]
    assert [plugin["namespace"] for plugin in plugins] == ["kv", "other"]
    assert {plugin["state"] for plugin in plugins} == {"ready"}
    assert (await admin.ask("GET", "/admin/plugins/kv")).json["instance"] == "kv/1"


async def test_health(admin):
    answer = (await admin.ask("GET", "/admin/plugins/kv/health")).json
    assert answer["health"] == "HEALTHY"
    assert answer["state"] == "ready"


async def test_namespaces_are_listed_and_described(admin):
    listed = (await admin.ask("GET", "/admin/namespaces")).json["namespaces"]
    assert [namespace["namespace"] for namespace in listed] == ["kv", "other"]
    assert "get" in listed[0]["operations"]
    described = (await admin.ask("GET", "/admin/namespaces/kv")).json
    assert described["limits"]["max_in_flight"] == 1024
    assert described["plugin"]["state"] == "ready"
    operations = {item["name"]: item for item in described["operations"]}
    assert operations["get"]["idempotent"]


async def test_logs(admin):
    journal = admin.proxy.supervisor.journals["kv"]
    for number in range(3):
        journal.line("kv/1", "output", "info", f"line {number}")
    answer = (await admin.ask("GET", "/admin/plugins/kv/logs?tail=2")).json
    assert [line["text"] for line in answer["lines"]] == ["line 1", "line 2"]
    assert answer["namespace"] == "kv"


async def test_strangers_learn_no_reasons_from_readyz(admin):
    admin.app.access.without_token = type(admin.app.access.without_token).PROBE
    assert (await admin.ask("GET", "/readyz")).json == {"status": "ready"}
    assert (await admin.ask("GET", "/metrics")).status == 401
    nowhere = await admin.ask("GET", "/admin/nowhere")
    assert nowhere.status == 401
    assert nowhere.headers["www-authenticate"] == "Bearer"
