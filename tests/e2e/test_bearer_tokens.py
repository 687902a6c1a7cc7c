"""JWTs at every door, with a real issuer beside: what is good, what is forged, what fails."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from joserfc.jwk import RSAKey
from prism_process import eventually
from stream_doors import grpc_stubs
from token_issuer import ISSUER, TokenIssuer

import grpc
from prism.access.api_keys import create_key


def bearer(token):
    return {"authorization": f"Bearer {token}"}


@pytest.fixture
def issuer():
    made = TokenIssuer()
    yield made
    made.close()


@pytest.fixture
def start(start_prism, issuer, tmp_path):
    def start(**changes):
        entry = {
            "issuer": ISSUER, "audience": "prism", "jwks_url": issuer.url,
            "algorithms": ["RS256", "ES256"], **changes,
        }  # fmt: skip
        create_key(tmp_path / "keys.yaml", "batch", [])
        access = {
            "owners": ["batch"],
            "allow": [
                {"who": ["group:billing"], "permissions": ["read"]},
                {"who": ["scope:orders.write"], "permissions": ["write"]},
            ],
        }
        demo = {"name": "demo", "backend": "sqlite", "config": {"path": ":memory:"}}
        return start_prism(
            {
                "authentication": {"jwt": [entry], "api_keys": {"file": "keys.yaml"}},
                "namespaces": [demo | {"access": access}],
            }
        )

    return start


def get(proxy, token, operation="get"):
    params = {"key": "a"} if operation == "get" else {"key": "a", "value": 1}
    return proxy.call("demo", operation, params, **bearer(token))


def test_good_tokens(start, issuer):
    proxy = start()
    assert get(proxy, issuer.token()).status_code == 200  # the keys may be on their way
    assert get(proxy, issuer.token(issuer.ec, "ES256"), "set").status_code == 200
    assert get(proxy, issuer.token(scope="orders.read"), "set").status_code == 403
    assert get(proxy, issuer.token(groups=[]), "get").status_code == 403
    messages, services = grpc_stubs()
    with grpc.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
        stub = services.BackendPluginStub(channel)
        request = messages.ExecuteRequest(operation="get", params_json='{"key":"a"}')
        metadata = [("prism-namespace", "demo"), *bearer(issuer.token()).items()]
        assert stub.Execute(request, metadata=metadata, timeout=60).success
        forged = [("prism-namespace", "demo"), *bearer(issuer.forged()["alg none"]).items()]
        with pytest.raises(grpc.RpcError) as caught:
            stub.Execute(request, metadata=forged, timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    eventually(lambda: any(record.get("principal") == "ada" for record in proxy.records))


def test_forged_tokens(start, issuer):
    proxy = start()
    forged = issuer.forged()
    for trick, token in forged.items():
        answer = get(proxy, token)
        assert answer.status_code == 401, (trick, answer.text)
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert get(proxy, issuer.token()).status_code == 200
    for token in forged.values():
        assert token[-40:] not in proxy.log


def test_a_token_ends_with_its_time(start, issuer):
    proxy = start(leeway_seconds=0)
    token = issuer.token(exp=time.time() + 2)
    assert get(proxy, token).status_code == 200
    eventually(lambda: get(proxy, token).status_code == 401)


def test_a_stream_ends_with_its_token(start, issuer):
    proxy = start(leeway_seconds=0)
    token = issuer.token(exp=time.time() + 3)
    headers = {**bearer(token), "accept": "text/event-stream"}
    target = f"{proxy.url}/v1/demo/watch"
    with proxy.client.stream("POST", target, headers=headers, content=b"{}") as answer:
        text = "".join(answer.iter_text())  # returns when it has ended
    assert answer.status_code == 200
    assert '"reason":"unauthenticated"' in text


def test_a_thousand_unknown_kids(start, issuer):
    proxy = start()
    assert get(proxy, issuer.token()).status_code == 200
    first = issuer.fetches
    stranger = RSAKey.generate_key(2048, {"kid": "x"})
    tokens = [issuer.token(stranger, header={"kid": f"k{number}"}) for number in range(1000)]
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(lambda token: get(proxy, token).status_code, tokens))
    assert statuses == {401}
    assert issuer.fetches - first <= 1 + (time.monotonic() - began) / 30
    assert get(proxy, issuer.token()).status_code == 200


@pytest.mark.parametrize("trouble", ["down", "slow", "garbage", "redirect"])
def test_without_keys_no_token_is_good_and_none_is_called_bad(start, issuer, trouble, tmp_path):
    if trouble == "slow":
        issuer.answer = issuer.hang
    else:
        redirect = {"location": issuer.url}
        issuer.answer = lambda: {
            "down": (503, {}, b""),
            "garbage": (200, {}, b"\x00garbage"),
            "redirect": (302, redirect, b""),
        }[trouble]
    proxy = start()
    answer = get(proxy, issuer.token())
    assert (answer.status_code, answer.json()["reason"]) == (503, "authentication_unavailable")
    assert answer.json()["retryable"]
    assert get(proxy, issuer.forged()["alg none"]).status_code == 401
    key, _ = create_key(tmp_path / "keys.yaml", "batch", [])
    eventually(lambda: get(proxy, key).status_code == 200)  # others are not concerned
    issuer.answer = issuer.give_keys
    issuer.released.set()
    eventually(lambda: get(proxy, issuer.token()).status_code == 200)


def test_keys_that_cannot_be_fetched_again_are_used_for_a_time(start, issuer):
    proxy = start(refresh_seconds=0.2, keys_max_age_seconds=2)
    token = issuer.token()
    assert get(proxy, token).status_code == 200
    issuer.answer = lambda: (500, {}, b"")
    fetches = issuer.fetches
    eventually(lambda: issuer.fetches > fetches)
    eventually(lambda: get(proxy, token).status_code == 503)  # though it was found good before
    issuer.answer = issuer.give_keys
    eventually(lambda: get(proxy, token).status_code == 200)


def test_a_key_that_is_withdrawn_opens_nothing_any_more(start, issuer):
    proxy = start(refresh_seconds=0.2)
    token = issuer.token()
    assert get(proxy, token).status_code == 200
    issuer.published = [issuer.ec]
    eventually(lambda: get(proxy, token).status_code == 401)
    assert get(proxy, issuer.token(issuer.ec, "ES256")).status_code == 200


def test_problems_in_the_configuration(tmp_path):
    from prism.config import load_config
    from prism.config.errors import ConfigError

    good = {"issuer": "i", "audience": "a", "jwks_url": "https://i/keys", "algorithms": ["RS256"]}
    for changes, problem in [
        ({"algorithms": ["HS256"]}, "HS256"),
        ({"algorithms": ["none"]}, "none"),
        ({"algorithms": []}, "the list is empty"),
        ({"jwks_url": "http://idp.example.com/keys"}, "use https"),
        ({"jwks_url": "file:///etc/passwd"}, "expected a URL"),
        ({"jwks_url": "keys.json"}, "expected a URL"),
    ]:
        file = tmp_path / "prism.yaml"
        file.write_text(json.dumps({"authentication": {"jwt": [good | changes]}}))
        with pytest.raises(ConfigError, match=problem):
            load_config(file)


@pytest.fixture
def start_opaque(start_prism, issuer, tmp_path):
    def start(**changes):
        (tmp_path / "client").write_text("s3cret")
        (tmp_path / "client").chmod(0o600)
        asked = {
            "url": issuer.introspection_url,
            "client_id": "prism",
            "client_secret": "{{ secret:client }}",
            **changes,
        }
        own = {
            "issuer": ISSUER, "audience": "prism", "jwks_url": issuer.url, "algorithms": ["RS256"],
        }  # fmt: skip
        access = {"allow": [{"who": ["group:billing"], "permissions": ["read", "write"]}]}
        demo = {"name": "demo", "backend": "sqlite", "config": {"path": ":memory:"}}
        return start_prism(
            {
                "secrets": {"directory": str(tmp_path)},
                "authentication": {"introspection": asked, "jwt": [own]},
                "namespaces": [demo | {"access": access}],
            }
        )

    return start


def test_opaque_tokens(start_opaque, issuer):
    proxy = start_opaque(cache_seconds=300)
    issuer.opaque["a-key"] = {"active": True, "sub": "ada", "groups": ["billing"]}
    issuer.opaque["other"] = {"active": True, "sub": "eve"}
    for _ in range(3):
        assert get(proxy, "a-key").status_code == 200
        assert get(proxy, "other").status_code == 403
    assert issuer.asked == {"a-key": 1, "other": 1}
    refused = get(proxy, "made-up")
    assert refused.status_code == 401
    assert "invalid_token" in refused.headers["www-authenticate"]
    assert (
        get(proxy, issuer.token()).status_code == 200
    )  # a JWT of a known issuer is not asked about
    assert set(issuer.asked) == {"a-key", "other", "made-up"}
    # A JWT of another issuer is, as any other token.
    foreign = issuer.token(iss="https://other.example.com")
    issuer.opaque[foreign] = {"active": True, "sub": "bob", "groups": ["billing"]}
    assert get(proxy, foreign).status_code == 200
    messages, services = grpc_stubs()
    with grpc.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
        stub = services.BackendPluginStub(channel)
        request = messages.ExecuteRequest(operation="get", params_json='{"key":"a"}')
        metadata = [("prism-namespace", "demo"), *bearer("a-key").items()]
        assert stub.Execute(request, metadata=metadata, timeout=60).success
    assert "s3cret" not in proxy.log
    assert "a-key" not in proxy.log


@pytest.mark.parametrize("trouble", ["down", "slow", "garbage"])
def test_while_nobody_knows_of_an_opaque_token_it_opens_nothing(start_opaque, issuer, trouble):
    proxy = start_opaque(cache_seconds=0.001)
    issuer.opaque["abc"] = {"active": True, "sub": "ada", "groups": ["billing"]}
    answers = {"down": (500, {}, b""), "garbage": (200, {}, b'{"active":1}')}
    issuer.introspect = issuer.hang if trouble == "slow" else lambda *_: answers[trouble]
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(get, proxy, f"other-{number}") for number in range(3)]
        answer = get(proxy, "abc")
        assert (answer.status_code, answer.json()["reason"]) == (503, "authentication_unavailable")
        assert {other.result().status_code for other in others} == {503}
        assert get(proxy, issuer.token()).status_code == 200  # others are not concerned
    issuer.introspect = issuer.tell
    issuer.released.set()
    assert get(proxy, "abc").status_code == 200


def test_a_stream_ends_when_its_opaque_token_is_revoked(start_opaque, issuer):
    proxy = start_opaque(cache_seconds=0.5)
    issuer.opaque["abc"] = {"active": True, "sub": "ada", "groups": ["billing"]}
    headers = {**bearer("abc"), "accept": "application/x-ndjson"}
    url, ask = f"{proxy.url}/v1/demo/watch", {"prefix": ""}
    with proxy.client.stream("POST", url, json=ask, headers=headers) as stream:
        assert stream.status_code == 200
        eventually(lambda: issuer.asked["abc"] > 1)  # still good
        del issuer.opaque["abc"]
        assert "not good any more" in "".join(stream.iter_text())


def test_a_token_is_inspected_as_the_proxy_would(issuer, tmp_path):
    config = tmp_path / "prism.yaml"
    entry = {"issuer": issuer.base, "audience": "prism", "algorithms": ["RS256"]}
    config.write_text(json.dumps({"authentication": {"jwt": [entry]}}))

    def inspect(token):
        command = [sys.executable, "-m", "prism", "token", "inspect", "-", "-c", str(config)]
        done = subprocess.run(
            [*command, "-o", "json"], input=token, capture_output=True, text=True, check=False
        )
        assert token.rpartition(".")[2] not in done.stdout
        return done.returncode, json.loads(done.stdout)

    status, told = inspect(issuer.token(iss=issuer.base))
    assert status == 0
    assert (told["verdict"], told["principal"], told["groups"]) == ("good", "ada", ["billing"])
    status, told = inspect(issuer.token(iss=issuer.base, aud="other"))
    assert status == 1
    assert "its aud is 'other', where 'prism' is expected" in told["verdict"]
