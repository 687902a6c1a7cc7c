"""Opaque tokens: the server that issued one is asked whether it is good (RFC 7662).

``find`` never waits: what is known of a token is remembered for ``cache_seconds``, and of one that
is not known the answer is awaited in the call's own task. Calls that show the same token at the
same time ask once. An answer that does not come, or makes no sense, opens nothing: 503.

A stream outlives what is remembered. Whoever looks whether its credential is still good has the
token asked about again, beside the calls, and is told of it the next time.
"""

import base64
import logging
import re
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import NamedTuple
from urllib.parse import quote_plus

import httpx
import msgspec
import trio

from prism.access.identity import Identity, KeysAwaited, unfit_name
from prism.access.issuer_keys import BadAnswer, content_of
from prism.access.tokens import find_claim, texts_of, time_of
from prism.config.errors import ConfigError
from prism.config.types import IntrospectionConfig
from prism.contract.errors import AuthenticationUnavailable, Unauthenticated
from prism.streams.errors import TLSFilesError
from prism.streams.tls import TLSFiles, load_client_context

TIMEOUT = 5.0
"""Seconds that an answer may take, all in all."""
MAX_KNOWN = 10_000
"""Tokens that are remembered; the oldest half goes when there are more."""
BAD_SECONDS = 10.0
"""How long a token that is not good is remembered as such, at most."""
MAX_ASKED = 64
"""Tokens that are asked about at a time: more are answered 503, or made-up tokens would have the
server asked without end."""

MAX_AGAIN = 8
"""Tokens of streams that are asked about again at a time, so that one that takes long leaves the
others to be looked at."""

_is_token = re.compile(rb"[A-Za-z0-9._~+/-]+=*").fullmatch  # RFC 6750, 2.1

log = logging.getLogger("prism.authentication")


class _Known(NamedTuple):
    """What is known of one token: ``identity`` is None where it is not good. It was said at
    ``since``, and is to be asked about again at ``until``."""

    identity: Identity | None
    since: float
    until: float

    def holds(self, now: float) -> bool:
        """Is it still to be believed? Not where the clock was set back meanwhile."""
        return self.since <= now < self.until


class Introspection:
    """Asks the server of ``config``; ``secret`` reads the secret of this client of it, and blocks.
    Run ``run``. ``clock`` is Unix time."""

    def __init__(
        self,
        config: IntrospectionConfig,
        secret: Callable[[], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._secret = secret
        self._clock = clock
        self._known: dict[bytes, _Known] = {}
        self._asking: dict[bytes, trio.Event] = {}
        self._again: set[bytes] = set()
        self._wanted = trio.Event()
        self._client: httpx.Client | None = None
        self._threads = trio.CapacityLimiter(MAX_ASKED)
        self._authorization = ""

    def find(self, token: bytes) -> Identity:
        """Who ``token`` was issued to.

        Raises:
            KeysAwaited: that is known in a moment.
            Unauthenticated: it is not good.
        """
        known = self._known.get(token)
        if known is None or not known.holds(self._clock()):
            if _is_token(token) is None:
                raise Unauthenticated("this is no bearer token", shown=True)
            raise KeysAwaited(partial(self._ask, token))
        if known.identity is None:
            raise Unauthenticated("this token is not good: its issuer says so", shown=True)
        return known.identity

    def is_good(self, identity: Identity) -> bool:
        """Is ``identity``, found before, what was found last? Has the server asked again, where
        that is too long ago; the next look sees what it said."""
        known = self._known.get(identity.token)
        if known is None or not known.holds(self._clock()):
            self._again.add(identity.token)
            self._wanted.set()
        if known is None:
            return True
        found = known.identity
        return found is not None and (
            (found.name, found.groups, found.scopes)
            == (identity.name, identity.groups, identity.scopes)
        )

    async def _ask(self, token: bytes) -> None:
        """Have it known, or wait until it is. Cancelling leaves nothing behind.

        Raises:
            AuthenticationUnavailable: there is no answer.
        """
        while (asking := self._asking.get(token)) is not None:
            await asking.wait()
            known = self._known.get(token)
            if known is not None and known.holds(self._clock()):
                return
        if len(self._asking) >= MAX_ASKED:
            raise AuthenticationUnavailable("too many tokens are being asked about")
        answered = self._asking[token] = trio.Event()
        try:
            found = await self._introspect(token)
        finally:
            del self._asking[token]
            answered.set()
        if len(self._known) >= MAX_KNOWN:
            for old in list(islice(self._known, MAX_KNOWN // 2)):
                del self._known[old]
        now = self._clock()
        seconds = self._config.cache_seconds
        until = min(found.expires, now + seconds) if found else now + min(seconds, BAD_SECONDS)
        self._known[token] = _Known(found, now, until)

    # -- beside the calls ---------------------------------------------------------

    async def run(self) -> None:
        """Ask again about the tokens of what is open, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(MAX_AGAIN):
                nursery.start_soon(self._ask_again)

    async def _ask_again(self) -> None:
        while True:
            await self._wanted.wait()
            while self._again:
                # Has been said; what is open goes on, and is asked about again.
                with suppress(AuthenticationUnavailable):
                    await self._ask(self._again.pop())
            if self._wanted.is_set():  # else another task has done so, and waits for it
                self._wanted = trio.Event()

    # -- the server ---------------------------------------------------------------

    async def _introspect(self, token: bytes) -> Identity | None:
        """What the server says of ``token``; None: that it is not good."""
        try:
            # httpx limits the time of each read, and none that a name takes to be resolved.
            with trio.fail_after(TIMEOUT):
                answer = await trio.to_thread.run_sync(
                    self._post, token, abandon_on_cancel=True, limiter=self._threads
                )
            return self._read(answer, token)
        except trio.TooSlowError:
            why = f"it takes longer than {TIMEOUT:g} s to answer"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            why = str(error) or type(error).__name__
        except (BadAnswer, ConfigError, TLSFilesError) as error:
            why = str(error)
        log.warning("a token cannot be judged: %s: %s", self._config.url, why)
        raise AuthenticationUnavailable("the server that knows the token does not answer")

    def _post(self, token: bytes) -> bytes:
        """The server's answer; blocks. In threads, several at a time."""
        config = self._config
        if self._client is None:
            self._client = _client(config)
        form = {"token": token.decode(), "token_type_hint": "access_token"}
        end = time.monotonic() + TIMEOUT
        for is_last in (False, True):
            authorization = self._authorization
            if not authorization:
                authorization = _basic(config.client_id, self._secret())
                self._authorization = authorization
            headers = {"authorization": authorization}
            with self._client.stream("POST", config.url, data=form, headers=headers) as answer:
                if answer.status_code == 401 and not is_last:
                    self._authorization = ""  # the secret may be another by now
                    continue
                return content_of(answer, end)
        raise AssertionError  # the second attempt has returned, or raised

    def _read(self, answer: bytes, token: bytes) -> Identity | None:
        """An answer. Raises BadAnswer if it is none."""
        try:
            claims = msgspec.json.decode(answer)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            raise BadAnswer("its answer is not JSON") from None
        active = claims.get("active") if isinstance(claims, dict) else None
        if not isinstance(active, bool):
            raise BadAnswer('its answer does not say whether the token is "active"')
        if not active:
            return None
        config, now = self._config, self._clock()
        expires = time_of(claims.get("exp", now + config.cache_seconds))
        if expires is None:
            raise BadAnswer("its answer has an exp that is no time")
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        why = ""
        if now >= expires:
            why = "it has expired"
        elif config.audience is not None and config.audience not in audiences:
            why = f"its audience is not {config.audience!r}"
        elif "cnf" in claims:
            why = "it is bound to a key, which is not checked here"
        elif unfit := unfit_name(claims.get(config.principal_claim)):
            why = f"its {config.principal_claim} cannot name a principal: {unfit}"
        if why:
            log.warning("a token that its issuer calls good is refused: %s", why)
            return None
        return Identity(
            f"{config.prefix}{claims[config.principal_claim]}",
            frozenset(
                f"{config.prefix}{group}"
                for group in texts_of(find_claim(claims, config.groups_claim))
            ),
            frozenset(texts_of(claims.get("scope"))),
            expires=min(expires, now + config.cache_seconds),
            token=token,
        )


def _client(config: IntrospectionConfig) -> httpx.Client:
    """Blocks: it loads certificates. No redirects, and no proxy of the environment: tokens go to
    the address that is configured, and to no other."""
    context: ssl.SSLContext | bool = False
    if config.url.startswith("https:"):
        context = load_client_context(TLSFiles(config.ca_cert))
    limits = httpx.Limits(max_connections=MAX_ASKED, max_keepalive_connections=8)
    return httpx.Client(verify=context, trust_env=False, timeout=TIMEOUT, limits=limits)


def _basic(client_id: str, secret: str) -> str:
    """The header that says who asks (RFC 6749, 2.3.1)."""
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
