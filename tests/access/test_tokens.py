import base64
import json
import re
import time

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc.jwk import OKPKey
from token_issuer import ISSUER

from prism.access.issuer_keys import IssuerKeys, read_key_set
from prism.access.tokens import Issuer, judge_token
from prism.config.types import JWTIssuerConfig
from prism.contract.errors import Unauthenticated


@pytest.fixture(scope="module")
def issuer():
    from token_issuer import TokenIssuer

    made = TokenIssuer()
    yield made
    made.close()


@pytest.fixture
def judge(issuer):
    """Judge a token as at ``now``, with the configuration changed by ``changes``."""

    def judge(token, now=None, **changes):
        config = JWTIssuerConfig(
            **{
                "issuer": ISSUER, "audience": "prism", "jwks_url": issuer.url,
                "algorithms": ["RS256", "ES256"], **changes,
            }
        )  # fmt: skip
        keys = IssuerKeys(config, lambda: None)
        keys._keys, keys._fetched = read_key_set(msgspec.json.encode(issuer.key_set())), None
        keys._started_at = float("inf")  # nothing is fetched here
        issuers = {ISSUER: Issuer(config, keys)}
        return judge_token(token.encode(), issuers, time.time() if now is None else now)

    return judge


async def test_good_tokens(issuer, judge):
    for token in (issuer.token(), issuer.token(issuer.ec, "ES256")):
        found = judge(token)
        assert (found.name, found.groups) == ("ada", {"billing"})
        assert found.scopes == {"orders.read", "orders.write"}
    assert judge(issuer.token(aud=["x", "prism"], header={"typ": "at+JWT"})).name == "ada"
    x5t = {"x5t": "a", "x5c": ["A" * 1500]}  # no key of theirs is used
    assert judge(issuer.token(header=x5t)).name == "ada"


async def test_no_forged_token_opens_anything(issuer, judge):
    forged = issuer.forged()
    del forged["huge"]  # is refused before
    for trick, token in forged.items():
        with pytest.raises(Unauthenticated) as caught:
            judge(token)
        assert caught.value.shown, trick
        assert token[-20:] not in str(caught.value)


async def test_other_algorithms_where_they_are_configured(issuer, judge):
    for algorithm in ("PS256", "RS512"):
        assert judge(issuer.token(algorithm=algorithm), algorithms=[algorithm]).name == "ada"
        with pytest.raises(Unauthenticated, match="algorithm"):
            judge(issuer.token(), algorithms=[algorithm])


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
async def test_edwards_curves(issuer, judge):
    key = OKPKey.generate_key("Ed25519", {"kid": "ed-1"})
    issuer.published.append(key)
    for algorithm in ("EdDSA", "Ed25519"):
        assert judge(issuer.token(key, algorithm), algorithms=[algorithm]).name == "ada"
        with pytest.raises(Unauthenticated, match="algorithm"):
            judge(issuer.token(header={"kid": "ed-1"}), algorithms=[algorithm])


async def test_clocks_may_differ_by_the_leeway_and_no_more(issuer, judge):
    now = time.time()
    token = issuer.token(nbf=int(now) + 100, iat=int(now), exp=int(now) + 200)
    assert judge(token, int(now) + 70).expires == int(now) + 230
    judge(token, int(now) + 229)
    for moment, why in ((69, "not good yet"), (230, "has expired")):
        with pytest.raises(Unauthenticated, match=why):
            judge(token, int(now) + moment)
    with pytest.raises(Unauthenticated, match="has expired"):
        judge(token, int(now) + 200, leeway_seconds=0.0)


async def test_a_token_for_longer_than_tokens_may_be(issuer, judge):
    token = issuer.token(exp=int(time.time()) + 3700)
    judge(token)
    with pytest.raises(Unauthenticated, match="for longer"):
        judge(token, max_lifetime_seconds=3600.0)


@pytest.mark.parametrize(
    ("claims", "logged"),
    [
        ({"aud": "other\n"}, r"another audience: its aud is 'other\\n', where 'prism' is expected"),
        ({"aud": ["a", 5]}, "another audience: its aud is 'a', a int, where"),
        ({"aud": "x" * 3000}, "another audience: its aud is 'x{100}', where"),
        ({"aud": None}, "another audience: its aud is missing, where"),
        ({"iss": "https://x"}, f"not known here: its iss is 'https://x', where '{ISSUER}' is"),
        ({"exp": 4e9}, r"than tokens may be here: for \d+ seconds; max_lifetime_seconds is 86400"),
        (
            {"algorithm": "RS512"},
            "may use: its alg is 'RS512', where 'RS256', 'ES256' is expected",
        ),
        ({"exp": 1e300}, r"than tokens may be here: for 1e\+300 seconds; max"),
    ],
)
async def test_the_log_has_what_was_found_and_the_client_has_not(issuer, judge, claims, logged):
    with pytest.raises(Unauthenticated) as caught:
        judge(issuer.token(**claims))
    assert re.search(logged, caught.value.logged)
    assert caught.value.logged.startswith(f"{caught.value.detail}: ")
    assert "expected" not in caught.value.detail


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), "1", True, None, []],
    ids=["huge", "huge-negative", "text", "truth", "null", "list"],
)
async def test_a_time_that_is_none(issuer, judge, name, value):
    claims = issuer.claims() | {name: value}
    with pytest.raises(Unauthenticated, match=f"its {name} is missing, or no time"):
        judge(issuer.signed(claims))


async def test_claims_of_other_names(issuer, judge):
    token = issuer.token(
        email="ada@example.com", realm_access={"roles": ["a", 5, "", "b"]}, scope=None, scp=["x"]
    )
    found = judge(token, principal_claim="email", groups_claim="realm_access.roles")
    assert (found.name, found.groups) == ("ada@example.com", {"a", "b"})
    assert found.scopes == {"x"}
    assert judge(token, groups_claim="none.such").groups == frozenset()


async def test_names_of_an_issuer_can_be_kept_apart(issuer, judge):
    found = judge(issuer.token(sub="spiffe://prod/web"), prefix="idp:")
    assert (found.name, found.groups) == ("idp:spiffe://prod/web", {"idp:billing"})


_parts = st.one_of(
    st.binary(max_size=60),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["alg", "kid", "typ", "iss", "aud", "exp", "sub", "jwk", "x"]),
                inner | st.sampled_from(["RS256", "rsa-1", "JWT", ISSUER, "prism"]),
                max_size=4,
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
).map(lambda content: base64.urlsafe_b64encode(content).rstrip(b"="))


@given(st.lists(_parts | st.binary(max_size=20), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_is_refused_and_nothing_else_happens(judge_bytes, parts):
    with pytest.raises(Unauthenticated):
        judge_bytes(b".".join(parts))


@pytest.fixture
def judge_bytes(issuer, monkeypatch):
    """Judge bytes, where there is no event loop."""
    monkeypatch.setattr("prism.access.issuer_keys.trio.current_time", lambda: 0.0)
    config = JWTIssuerConfig(
        issuer=ISSUER, audience="prism", jwks_url=issuer.url, algorithms=["RS256"]
    )
    keys = IssuerKeys(config, lambda: None)
    keys._keys, keys._fetched = read_key_set(msgspec.json.encode(issuer.key_set())), None
    keys._started_at = 0.0
    issuers = {ISSUER: Issuer(config, keys)}
    return lambda token: judge_token(token, issuers, time.time())
