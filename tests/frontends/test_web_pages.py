import pytest

from prism.frontends.web_pages import WebPages

APP = "https://app.example.com"
PAGES = WebPages(frozenset({APP, "null"}))
HOST = {"host": "127.0.0.1:50051"}


@pytest.fixture
def call(make_namespace, make_client):
    namespace = make_namespace()
    client = make_client(namespace, pages=PAGES)

    async def call(method="POST", **headers):
        given = {name.replace("_", "-"): value for name, value in (HOST | headers).items()}
        answer = await client.request(method, "/v1/kv/get", b"{}", given)
        return answer, len(namespace.slot.current.channel.requests)

    return call


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:50051", "https://127.0.0.1:50051"])
async def test_no_page_and_the_proxys_own(call, origin):
    answer, calls = await call(**({} if origin is None else {"origin": origin}))
    assert (answer.status, calls) == (200, 1)
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origin", [APP, APP.upper(), "null"])
async def test_pages_that_may_call_can_read_the_answer(call, origin):
    answer, calls = await call(origin=origin)
    assert (answer.status, calls) == (200, 1)
    assert answer.headers["access-control-allow-origin"] == origin.lower()
    assert answer.headers["vary"] == "origin"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


async def test_they_can_read_errors_too(call):
    answer, _ = await call(origin=APP, prism_timeout="nonsense")
    assert answer.status == 400
    assert answer.headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example.com",
        "http://app.example.com",
        APP + ":8443",
        APP + ".evil.example.com",
        APP + "," + APP,
        "http://127.0.0.1:1",
        "127.0.0.1:50051",
    ],
)
async def test_others_do_nothing_and_learn_nothing(call, origin):
    answer, calls = await call(origin=origin)
    assert (answer.status, answer.json["reason"], calls) == (403, "foreign_origin", 0)
    assert "listen.web_origins" in answer.json["detail"]
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_page_whose_browser_hides_its_origin_is_foreign(call, site):
    """``fetch(url, {mode: "no-cors"})`` sends none with a GET, which may begin a stream."""
    hidden = {"sec_fetch_site": site, "sec_fetch_mode": "no-cors"}
    answer, calls = await call("GET", accept="text/event-stream", **hidden)
    assert (answer.status, answer.json["reason"], calls) == (403, "foreign_origin", 0)


@pytest.mark.parametrize(
    ("site", "mode"), [("none", "navigate"), ("same-origin", "cors"), ("cross-site", "navigate")]
)
async def test_addresses_links_and_own_pages_are_no_foreign_page(call, site, mode):
    answer, calls = await call(sec_fetch_site=site, sec_fetch_mode=mode)
    assert (answer.status, calls) == (200, 1)


async def test_a_page_without_an_origin_of_its_own_is_foreign_where_no_host_is_told(call):
    answer, calls = await call(origin="null", host="")
    assert (answer.status, calls) == (200, 1)  # since "null" is configured here
    answer, calls = await call(origin="https://", host="")
    assert (answer.status, calls) == (403, 1)


async def test_a_preflight(call):
    asks = {"access_control_request_method": "POST"}
    answer, calls = await call("OPTIONS", origin=APP, **asks)
    assert (answer.status, answer.body, calls) == (200, b"", 0)
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.headers["access-control-allow-methods"] == "GET, POST"
    assert "content-type" in answer.headers["access-control-allow-headers"]
    answer, _ = await call("OPTIONS", origin="https://evil.example.com", **asks)
    assert answer.status == 403
    answer, _ = await call("OPTIONS", origin=APP)
    assert answer.status == 405


async def test_no_page_may_call_by_default(make_namespace, make_client):
    answer = await make_client(make_namespace()).request(
        "POST", "/v1/kv/get", b"{}", HOST | {"origin": APP}
    )
    assert answer.status == 403
