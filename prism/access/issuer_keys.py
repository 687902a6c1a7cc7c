"""The keys of one token issuer, fetched beside the calls and kept for as long as they are good.

``find`` never waits. Where a key may be had by waiting a moment, it raises ``KeysAwaited``, and
the call waits in a task of its own. Whatever tokens come, an id that is not known asks for one
fetch in ``MIN_INTERVAL`` seconds, and no more.
"""

import logging
import math
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import trio

from prism.access.identity import KeysAwaited
from prism.config.types import JWTIssuerConfig
from prism.contract.errors import AuthenticationUnavailable, PrismError, Unauthenticated
from prism.streams.errors import TLSFilesError
from prism.streams.tls import TLSFiles, load_client_context

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    Key = RSAKey | ECKey | OKPKey

MIN_INTERVAL = 30.0
"""Seconds between two fetches, but after one that failed."""
LONGEST_PAUSE = 30.0
"""Seconds until another try, at most, after one that failed; the first is made after one."""
FETCH_TIMEOUT = 5.0
"""Seconds that a fetch may take, all in all."""
MAX_ANSWER = 256 * 1024
"""Bytes of a key set: a hundred keys with their certificates are less."""
MAX_KEYS = 100
DISCOVERY = "/.well-known/openid-configuration"
SHORTEST_RSA = 2048
"""Bits; shorter keys are not safe any more (NIST SP 800-131A)."""
MAX_WAITING = 1024
"""Calls at a time that wait for keys."""

log = logging.getLogger("prism.authentication")


class BadAnswer(PrismError):
    """What an issuer answers is of no use."""


class IssuerKeys:
    """The keys of ``config``'s issuer; ``changed`` is called when there are others, or none.

    They are used for ``keys_max_age_seconds`` after they were fetched, and then not any more.
    """

    def __init__(self, config: JWTIssuerConfig, changed: Callable[[], None]) -> None:
        self._config = config
        self._changed = changed
        self._keys: dict[str, Key] | None = None
        self._fetched_at = -math.inf
        self._started_at = -math.inf
        self._fetched: trio.Event | None = trio.Event()  # until the first fetch has ended
        self._wanted = trio.Event()
        self._waiting = 0

    def find(self, key_id: str | None, algorithm: str) -> "Key":
        """The key that a token names; the only one, if it names none.

        Raises:
            KeysAwaited: it may be there in a moment.
            AuthenticationUnavailable: no keys are to be had.
            Unauthenticated: there is no such key.
        """
        keys = self._keys
        if keys is None:
            if self._fetched is not None:
                raise KeysAwaited(self.wait_fetched)
            raise AuthenticationUnavailable("the keys of the token's issuer are not to be had now")
        key = keys.get(key_id) if key_id is not None else _only(keys)
        if key is not None:
            if key.alg not in (None, algorithm):
                raise Unauthenticated("the token's key is for another algorithm", shown=True)
            return key
        if self._fetched is None and trio.current_time() >= self._started_at + MIN_INTERVAL:
            self._fetched = trio.Event()
            self._wanted.set()
        if self._fetched is not None:
            raise KeysAwaited(self.wait_fetched)
        raise Unauthenticated("the token's issuer has no such key", shown=True)

    async def wait_fetched(self) -> None:
        """Return when the fetch under way has ended, however. Cancelling leaves nothing behind.

        Raises:
            AuthenticationUnavailable: too many calls wait already.
        """
        if self._fetched is None:
            return
        if self._waiting >= MAX_WAITING:
            raise AuthenticationUnavailable("too many calls wait for the token issuer's keys")
        self._waiting += 1
        try:
            await self._fetched.wait()
        finally:
            self._waiting -= 1

    # -- beside the calls ---------------------------------------------------------

    async def run(self) -> None:
        """Keep the keys up to date, until cancelled."""
        failures = 0
        while True:
            if await self._fetch():
                failures = 0
                pause = self._config.refresh_seconds
            else:
                pause = min(LONGEST_PAUSE, 2.0**failures)
                failures = min(failures + 1, 10)
            end = self._fetched_at + self._config.keys_max_age_seconds
            if self._keys is not None:
                pause = max(0.0, min(pause, end - trio.current_time()))
            with trio.move_on_after(pause):
                await self._wanted.wait()
            self._wanted = trio.Event()
            if self._keys is not None and trio.current_time() >= end:
                log.error("the keys of %s are too old to be used any more", self._config.issuer)
                self._keys = None
                self._changed()

    async def _fetch(self) -> bool:
        """Fetch the keys once; says whether that was of use."""
        fetched = self._fetched = trio.Event() if self._fetched is None else self._fetched
        self._started_at = trio.current_time()
        try:
            with trio.fail_after(FETCH_TIMEOUT):
                keys = await self._download()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, trio.TooSlowError) as error:
            why = str(error) or type(error).__name__
            log.warning("the keys of %s cannot be fetched: %s", self._config.issuer, why)
            return False
        except (BadAnswer, TLSFilesError) as error:
            log.warning("the keys of %s cannot be used: %s", self._config.issuer, error)
            return False
        except Exception:  # what somebody else's server says must not end the proxy
            log.exception("bug in reading the keys of %s", self._config.issuer)
            return False
        else:
            self._fetched_at = trio.current_time()
            before, self._keys = self._keys, keys
            if before is None or _texts(before) != _texts(keys):
                log.info("%s signs with %s", self._config.issuer, ", ".join(keys))
                self._changed()
            return True
        finally:
            self._fetched = None
            fetched.set()

    async def _download(self) -> "dict[str, Key]":
        return await trio.to_thread.run_sync(_download, self._config, abandon_on_cancel=True)


def _download(config: JWTIssuerConfig) -> "dict[str, Key]":
    """The issuer's key set; blocks for ``FETCH_TIMEOUT`` seconds, or a little longer.

    To load the library that reads keys takes tenths of a second, which is done here, too.
    """
    url = config.jwks_url or f"{config.issuer.rstrip('/')}{DISCOVERY}"
    context: ssl.SSLContext | bool = False
    if url.startswith("https:"):
        context = load_client_context(TLSFiles(config.ca_cert))
    end = time.monotonic() + FETCH_TIMEOUT
    # No redirects, and no proxy of the environment: keys come from the address that is
    # configured, and from no other.
    with httpx.Client(verify=context, trust_env=False, timeout=FETCH_TIMEOUT) as client:
        content = _get(client, url, end)
        if config.jwks_url is None:
            content = _get(client, discovered(content, config.issuer), end)
    return read_key_set(content)


def _get(client: httpx.Client, url: str, end: float) -> bytes:
    with client.stream("GET", url, headers={"accept": "application/json"}) as answer:
        return content_of(answer, end)


def content_of(answer: httpx.Response, end: float) -> bytes:
    """The content of a server's ``answer``, which must have come by ``end`` (monotonic).

    Raises:
        BadAnswer: it is an error, too long, or too slow.
    """
    url = answer.request.url
    if answer.status_code != 200:
        raise BadAnswer(f"{url} answers {answer.status_code}")
    content = b""
    for part in answer.iter_bytes():
        content += part
        if len(content) > MAX_ANSWER:
            raise BadAnswer(f"{url} answers with more than {MAX_ANSWER} bytes")
        if time.monotonic() > end:
            raise BadAnswer(f"{url} takes longer than {FETCH_TIMEOUT:g} s to answer")
    return content


def discovered(text: bytes, issuer: str) -> str:
    """Where an issuer's keys are, by its metadata (OpenID Connect Discovery 1.0, RFC 8414).

    Raises:
        BadAnswer: it is another's, or does not say; or they would come in plain text where the
            metadata did not.
    """
    try:
        found = msgspec.json.decode(text, type=_Metadata)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        raise BadAnswer("its metadata does not say issuer and jwks_uri") from None
    if found.issuer != issuer:
        raise BadAnswer("its metadata are another issuer's")
    secure = found.jwks_uri.startswith("https://")
    if not secure and (issuer.startswith("https:") or not found.jwks_uri.startswith("http://")):
        raise BadAnswer("its metadata have a jwks_uri that is no https URL")
    return found.jwks_uri


class _Metadata(msgspec.Struct):
    issuer: str
    jwks_uri: str


def read_key_set(text: bytes) -> "dict[str, Key]":
    """The keys of a JWK Set (RFC 7517) that verify signatures of known kinds, by their ids.

    Raises:
        BadAnswer: it is none, or has no such key.
    """
    try:
        plain = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        raise BadAnswer("it is not JSON") from None
    listed = plain.get("keys") if isinstance(plain, dict) else None
    if not isinstance(listed, list):
        raise BadAnswer('it is no JWK Set: it has no list "keys"')
    keys: dict[str, Key] = {}
    for entry in listed[:MAX_KEYS]:
        key = _read_key(entry)
        if key is not None:
            keys.setdefault(str(entry.get("kid", f"#{len(keys)}")), key)
    if not keys:
        raise BadAnswer("it has no key that could verify a signature")
    return keys


def _read_key(entry: Any) -> "Key | None":
    """A public key, or None for anything else: a secret one among them is not used either."""
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    kinds: dict[Any, type[Key]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    public = {name: value for name, value in entry.items() if name in _PUBLIC}
    try:
        kind = kinds.get(entry.get("kty"))
        if kind is None or (kind is RSAKey and _bits(entry.get("n")) < SHORTEST_RSA):
            return None
        key = kind.import_key(public)
        _ = key.raw_value  # is read only now
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return key


_PUBLIC = frozenset({"kty", "kid", "alg", "n", "e", "crv", "x", "y"})


def _bits(number: object) -> int:
    """How many bits a number in base64url has, at most."""
    return len(number.lstrip("A")) * 6 if isinstance(number, str) else 0  # A: six zeros


def _only(keys: "Mapping[str, Key]") -> "Key | None":
    return next(iter(keys.values())) if len(keys) == 1 else None


def _texts(keys: "Mapping[str, Key]") -> Collection[Any]:
    return [(name, key.as_dict(private=False)) for name, key in keys.items()]
