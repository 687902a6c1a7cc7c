"""Secrets that HashiCorp Vault (or OpenBao) has: its KV engine, version 2, over HTTP.

Theory of operation. There is one session with a Vault: a token, and until when it is good. It is
had by a login (AppRole, Kubernetes) or from the configuration, renewed when two thirds of its
time are over, and had anew where that cannot be: it may not be renewed, its longest time comes
near, or Vault does not know it any more. One request is made at a time; who waits for it finds
its answer remembered. A Vault that does not answer, is sealed, or answers with what is no answer
of a Vault is *down*: it is left alone for ``RETRY_SECONDS``, and what was read last is used
meanwhile. Where it answers, what it says counts: a secret that it refuses, or does not have, is
not to be had, whatever was read before.

Requests go to the address that is configured and nowhere else: redirects are not followed, since
they would take the token to another server, and proxies of the environment are not used.
"""

import logging
import math
import ssl
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import msgspec
import trio
from msgspec.structs import replace

from prism.config.errors import ConfigError, clip
from prism.config.types import SecretsConfig
from prism.contract.redaction import Redaction
from prism.secrets.files import checked, read_secret
from prism.secrets.store import SecretError, Secrets, SecretSource
from prism.streams.errors import TLSFilesError
from prism.streams.tls import TLSFiles, load_client_context

RETRY_SECONDS = 5.0
"""Until a Vault that is down is asked again, and one that has refused a secret for that secret."""
MAX_ANSWER = 1024 * 1024
"""Bytes of an answer: a dozen secrets of the largest size."""
BELIEVED_SECONDS = 60.0
"""How long a refused secret is not laid to the token, once a new token was refused it, too."""
RENEW_AFTER = 2 / 3
"""Share of a token's time after which it is renewed."""
SHORTEST_SHARE = 1 / 2
"""Share of its first time that a renewed token must have: with less, its longest time is near."""

_KEYS_SHOWN = 5

log = logging.getLogger("prism.secrets")


class VaultDown(SecretError):
    """Vault cannot be asked now."""


class _Answer(NamedTuple):
    """What Vault answers: an HTTP status, and a JSON object."""

    status: int
    content: dict[str, Any]


class _Known(NamedTuple):
    """What was said of a path: the ``values`` there, or why there are none; at ``asked``."""

    values: dict[str, Any] | SecretError
    asked: float


class _Refused(NamedTuple):
    """A login that Vault refused: what was ``shown``, ``why``, and when it may be tried again."""

    shown: dict[str, str]
    why: str
    until: float


class Vault:
    """A session with the Vault of ``where``; ``secrets`` reads what is needed to log in, which
    rules see to is not in that Vault.

    ``down`` says why it cannot be asked, and is empty while it can. ``expires`` is when the token
    ends, on trio's clock; infinite for one that does not. ``used_at`` is its owner's.
    """

    def __init__(self, where: SecretsConfig, secrets: Secrets) -> None:
        assert where.vault is not None  # noqa: S101 - a source of it has been found
        config = self.config = where.vault
        self.used_at = 0.0
        self.down = ""
        self.expires = math.inf
        texts = {"token": config.token, "secret_id": config.secret_id}
        written = {name: text for name, text in texts.items() if text is not None}
        self._own = secrets.credentials(written, replace(where, vault=None))
        self._in_thread = secrets.in_thread
        self._lock = trio.Lock()
        self._known: dict[str, _Known] = {}
        self._context: ssl.SSLContext | None = None
        self._down_until = -math.inf
        self._token = ""
        self._first_seconds = math.inf
        self._renew_at = math.inf
        self._renewable = False
        self._refused: _Refused | None = None
        self._believed_until = -math.inf
        self._hidden = Redaction()

    async def read(self, source: SecretSource, *, anew: bool) -> str | SecretError:
        """The secret at ``source``, ``PATH#KEY``; or why it is not to be had.

        Not ``anew``, it may be ``refresh_seconds`` old. Cancelling leaves nothing behind.
        """
        path, _, key = source.place.partition("#")
        began = trio.current_time()
        async with self._lock:
            known = self._known.get(path)
            found = self._value(known, key, path)
            if known is None or self._is_old(known, found, began if anew else None):
                known = self._known[path] = await self._ask(path, known)
                found = self._value(known, key, path)
            return found

    def _is_old(self, known: _Known, found: str | SecretError, began: float | None) -> bool:
        """Must it be asked for again? ``began``: an answer from before that is too old."""
        if began is not None:
            return known.asked < began
        limit = self.config.refresh_seconds
        if isinstance(found, SecretError):
            limit = min(limit, RETRY_SECONDS)
        return trio.current_time() - known.asked >= limit

    @staticmethod
    def _value(known: _Known | None, key: str, path: str) -> str | SecretError:
        values = known.values if known is not None else SecretError("it was not asked for")
        if isinstance(values, SecretError):
            return values
        if key not in values:
            names = sorted(clip(str(name)) for name in values)
            shown = ", ".join(names[:_KEYS_SHOWN]) + (", …" if len(names) > _KEYS_SHOWN else "")
            return SecretError(f'"{path}" has no "{key}"; it has {shown or "no values"}')
        value = values[key]
        if not isinstance(value, str):
            return SecretError(f'"{key}" of "{path}" is no text')
        try:
            return checked(value.encode(errors="surrogatepass"))
        except ValueError as error:
            return SecretError(str(error))

    async def tend(self) -> None:
        """Renew the token, if that is due; have another one, if it cannot be renewed."""
        now = trio.current_time()
        if not self._token or now < self._renew_at or now < self._down_until:
            return
        async with self._lock:
            try:
                if not (self._renewable and await self._renew()):
                    await self._log_in()
            except VaultDown as error:
                self._is_down(error)
            except SecretError as error:
                log.warning(
                    "Vault at %s: the token that ends in %.0f s cannot be replaced: %s",
                    self.config.address,
                    max(0.0, self.expires - trio.current_time()),
                    error,
                )
                left = self.expires - trio.current_time()
                self._renew_at = trio.current_time() + max(RETRY_SECONDS, left / 2)

    async def log_out(self) -> None:
        """Have a token revoked that a login has given. What fails is of no consequence."""
        token, self._token = self._token, ""
        if token and self.config.token is None and not self.down:
            try:
                await self._request("POST", "auth/token/revoke-self", token=token)
            except SecretError as error:
                log.debug("Vault at %s: no logout: %s", self.config.address, error)

    # -- secrets ----------------------------------------------------------------------

    async def _ask(self, path: str, before: _Known | None) -> _Known:
        """What Vault says of ``path`` now; while it is down, what it said ``before``."""
        now = trio.current_time()
        try:
            if now < self._down_until:
                raise VaultDown(self.down)
            values = await self._read(path)
        except VaultDown as error:
            self._is_down(error)
            if before is not None and not isinstance(before.values, SecretError):
                return _Known(before.values, now)
            return _Known(error, now)
        except SecretError as error:
            self._is_up()
            return _Known(error, trio.current_time())
        self._is_up()
        return _Known(values, trio.current_time())

    async def _read(self, path: str) -> dict[str, Any]:
        if not self._token or trio.current_time() >= self.expires:
            await self._log_in()
        where = f"{quote(self.config.mount)}/data/{quote(path)}"
        answer = await self._request("GET", where)
        is_believed = trio.current_time() < self._believed_until
        if answer.status == 403 and not is_believed and not await self._is_token_good():
            await self._log_in()
            answer = await self._request("GET", where)
            if answer.status == 403:
                # The policy refuses lookup-self as well as this: a login at every look would
                # leave Vault with a token more each time.
                self._believed_until = trio.current_time() + BELIEVED_SECONDS
        data = answer.content.get("data")
        if answer.status == 200 and isinstance(data, dict) and isinstance(data.get("data"), dict):
            found: dict[str, Any] = data["data"]
            return found
        mount = self.config.mount
        if answer.status == 404:
            if isinstance(data, dict) and isinstance(data.get("metadata"), dict):
                raise SecretError(f'the newest version of "{path}" is deleted')
            raise SecretError(
                f'there is nothing at "{path}"; `vault kv put -mount={mount} {path} …` puts it '
                "there, if that is a KV engine of version 2"
            )
        if answer.status == 403:
            raise SecretError(
                f"Vault refuses it{self._told(answer)}; the token's policy needs "
                f'path "{mount}/data/{path}" {{ capabilities = ["read"] }}'
            )
        raise SecretError(f"Vault answers {answer.status}, and no secret{self._told(answer)}")

    def _is_down(self, error: VaultDown) -> None:
        self._context = None  # the authorities may have been wrong
        if trio.current_time() < self._down_until:
            return
        self._down_until = trio.current_time() + RETRY_SECONDS
        if self.down != str(error):
            self.down = str(error)
            log.warning(
                "Vault at %s is down: %s; it is asked again every %g s, and secrets that were "
                "read before are used meanwhile",
                self.config.address,
                error,
                RETRY_SECONDS,
            )

    def _is_up(self) -> None:
        if self.down:
            log.info("Vault at %s answers again", self.config.address)
        self.down, self._down_until = "", -math.inf

    # -- the token --------------------------------------------------------------------

    async def _is_token_good(self) -> bool:
        answer = await self._request("GET", "auth/token/lookup-self")
        return answer.status == 200

    async def _renew(self) -> bool:
        """Renew the token; whether it is now good for long enough."""
        answer = await self._request("POST", "auth/token/renew-self", {})
        if answer.status != 200:
            return False
        self._take_token(answer, "a renewal")
        return self.expires - trio.current_time() >= self._first_seconds * SHORTEST_SHARE

    async def _log_in(self) -> None:
        """Have another token. Raises SecretError if Vault gives none."""
        config = self.config
        try:
            own = await self._own()
        except ConfigError as error:
            why = "; ".join(problem.message for problem in error.problems)
            raise SecretError(f"there is no login to Vault: {why}") from None
        if config.token is not None:
            self._check_refused(own)
            await self._use_token(own["token"])
            return
        if config.role_id is not None:
            mount, way = config.auth_mount or "approle", f"role_id {config.role_id}"
            body = {"role_id": config.role_id, **own}
        else:
            mount, way = config.auth_mount or "kubernetes", f"role {config.kubernetes_role}"
            body = {"role": config.kubernetes_role or "", "jwt": await self._account_token()}
        self._check_refused(body)
        self._hidden = Redaction({name: body.get(name, "") for name in ("secret_id", "jwt")})
        answer = await self._request("POST", f"auth/{quote(mount)}/login", body, token="")
        if answer.status != 200:
            raise self._refuse(
                body,
                f"Vault refuses the login at auth/{mount} as {way}{self._told(answer)}; check "
                "it, and what else secrets.vault says of the login",
            )
        self._take_token(answer, "a login")
        self._first_seconds = self.expires - trio.current_time()
        log.info("Vault at %s: logged in as %s", config.address, way)

    def _check_refused(self, shown: dict[str, str]) -> None:
        """See that Vault has not just refused ``shown``: each secret would try it again, and
        Vault locks out who fails too often. Raises SecretError."""
        refused = self._refused
        if refused and refused.shown == shown and trio.current_time() < refused.until:
            raise SecretError(refused.why)

    def _refuse(self, shown: dict[str, str], why: str) -> SecretError:
        self._refused = _Refused(shown, why, trio.current_time() + RETRY_SECONDS)
        return SecretError(why)

    async def _use_token(self, token: str) -> None:
        """Take the token that the configuration names, and find out how long it is good."""
        self._hidden = Redaction({"token": token})
        answer = await self._request("GET", "auth/token/lookup-self", token=token)
        if answer.status != 200:
            raise self._refuse(
                {"token": token},
                f"Vault does not take the token of secrets.vault.token{self._told(answer)}: it has "
                "ended, or was never one; put a new one there",
            )
        data = answer.content.get("data")
        seconds = data.get("ttl") if isinstance(data, dict) else None
        renewable = isinstance(data, dict) and data.get("renewable") is True
        self._keep_token(token, seconds, renewable=renewable)
        self._first_seconds = self.expires - trio.current_time()

    async def _account_token(self) -> str:
        """The service account's token: the kubelet writes a new one before the old one ends."""
        file = Path(self.config.kubernetes_token_file)
        try:
            return await self._in_thread(lambda: read_secret(file, on_exposed=lambda _: None))
        except (OSError, ValueError, SecretError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise SecretError(f"there is no login to Vault: {file}: {reason}") from None

    def _take_token(self, answer: _Answer, what: str) -> None:
        auth = answer.content.get("auth")
        token = auth.get("client_token") if isinstance(auth, dict) else None
        if not isinstance(auth, dict) or not isinstance(token, str) or not token:
            raise VaultDown(f"Vault's answer to {what} has no token")
        self._keep_token(token, auth.get("lease_duration"), renewable=auth.get("renewable") is True)

    def _keep_token(self, token: str, seconds: Any, *, renewable: bool) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
            raise VaultDown("Vault does not say how long the token is good")
        if not (token.isascii() and token.isprintable()):
            raise VaultDown("what Vault gives for a token can be none")
        now = trio.current_time()
        self._token, self._renewable = token, renewable
        self.expires = now + seconds if seconds else math.inf  # 0: it does not end
        self._renew_at = now + max(1.0, seconds * RENEW_AFTER) if seconds else math.inf

    # -- requests -----------------------------------------------------------------------

    async def _request(
        self, method: str, path: str, body: object = None, token: str | None = None
    ) -> _Answer:
        """What Vault answers; ``token`` is another than the session's.

        Raises:
            VaultDown: it does not, or with what no working Vault answers.
        """
        url = f"{self.config.address.rstrip('/')}/v1/{path}"
        headers = {"x-vault-request": "true", "accept-encoding": "identity"}
        if shown := self._token if token is None else token:
            headers["x-vault-token"] = shown
        if self.config.namespace is not None:
            headers["x-vault-namespace"] = self.config.namespace
        seconds = self.config.timeout_seconds
        try:
            with trio.fail_after(seconds):
                status, content = await self._send(method, url, headers, body)
        except trio.TooSlowError:
            raise VaultDown(f"it does not answer within {seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            why = _reason(error)
            way_out = "; set secrets.vault.ca_cert" if "CERTIFICATE_VERIFY_FAILED" in why else ""
            raise VaultDown(f"{why}{way_out}") from None
        except TLSFilesError as error:
            raise VaultDown(str(error)) from None
        if 300 <= status < 400:
            raise VaultDown(
                f"it answers {status}, to ask another server, which is not done; secrets.vault."
                "address must be that of an active server, or of a load balancer before it"
            )
        try:
            decoded = msgspec.json.decode(content) if content.strip() else {}
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            decoded = None
        if not isinstance(decoded, dict):
            raise VaultDown(f"it answers {status} with what is no JSON object: is it a Vault?")
        answer = _Answer(status, decoded)
        if status == 429 or status >= 472:
            sealed = "; `vault operator unseal` unseals it" if "sealed" in str(decoded) else ""
            raise VaultDown(f"it answers {status}{self._told(answer)}{sealed}")
        return answer

    async def _send(
        self, method: str, url: str, headers: dict[str, str], body: object
    ) -> tuple[int, bytes]:
        context: ssl.SSLContext | bool = False
        if url.startswith("https:"):
            if self._context is None:
                files = TLSFiles(self.config.ca_cert)
                self._context = await trio.to_thread.run_sync(
                    load_client_context, files, abandon_on_cancel=True
                )
            context = self._context
        content = b""
        async with (
            # The time is limited by the caller, for all of it together.
            httpx.AsyncClient(verify=context, trust_env=False, timeout=None) as client,  # noqa: S113
            client.stream(method, url, headers=headers, json=body) as answer,
        ):
            # httpx's generators do not close each other: one that is not read to its end must end
            # by an exception from within.
            with trio.CancelScope() as too_long:
                async for part in answer.aiter_raw():
                    content += part
                    if len(content) > MAX_ANSWER:
                        too_long.cancel()
        if too_long.cancel_called:
            raise VaultDown(f"it answers with more than {MAX_ANSWER} bytes")
        return answer.status_code, content

    def _told(self, answer: _Answer) -> str:
        """What Vault says of an error, for a message: on one line, without our credentials."""
        errors = answer.content.get("errors")
        told = [error for error in errors if isinstance(error, str)] if errors else []
        if not isinstance(errors, list) or not told:
            return ""
        hidden = self._hidden.text("; ".join(told)).replace(self._token or "\0", "[redacted]")
        return f" ({clip(' '.join(hidden.split()), 160)})"


def _reason(error: BaseException) -> str:
    """What ``error`` says, or the first of those that it comes from which says something."""
    found: BaseException | None = error
    while found is not None and not str(found):
        found = found.__cause__ or found.__context__
    return str(found) if found is not None else type(error).__name__
