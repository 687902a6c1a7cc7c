"""Where each secret is, and what it is now.

A secret has one place, which the configuration names: a variable of the environment if
``secrets.environment`` has its name, Vault if ``secrets.vault.secrets`` has it, else a file of
``secrets.directory``. There is no second place that is looked at when the first fails: who can
take Vault down must not get to say which secret is used instead.
"""

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec
import trio
from msgspec.structs import replace

from prism.config.errors import ConfigError, ConfigProblem
from prism.config.secrets import fill, placeholders
from prism.config.types import SecretsConfig
from prism.contract.errors import PrismError
from prism.secrets.files import OnExposed, checked, log_exposed, read_from

if TYPE_CHECKING:
    from prism.secrets.vault import Vault

T = TypeVar("T")

IDLE_SECONDS = 600.0
"""A Vault that nobody has asked for so long is logged out of: the configuration names another."""
THREADS = 4
"""That read files: one each is lost to a file system that hangs, and no others of the proxy's are,
which resolve names and check large bodies."""
READ_SECONDS = 5.0
"""That the files of one look may take: a plugin that waits for them says so by then."""
LOGOUT_SECONDS = 2.0
"""For all logouts together: a token that is not revoked ends by itself."""


class SecretError(PrismError):
    """A secret cannot be had; says why, and never a value."""


@dataclass(frozen=True)
class SecretSource:
    """The place of the secret ``name``: a ``directory``, a variable, or ``PATH#KEY`` in Vault.

    ``server`` is what the configuration says of that Vault and of the login to it, but not of its
    secrets; ``server_key`` is the same as text, so that a source can be a key of mappings.
    """

    name: str
    kind: Literal["file", "variable", "vault"]
    place: str
    server: SecretsConfig | None = field(default=None, compare=False, repr=False)
    server_key: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        if self.kind == "file":
            return str(Path(self.place) / self.name)
        if self.kind == "variable":
            return f"the environment variable {self.place}"
        vault = self.server.vault if self.server is not None else None
        assert vault is not None  # noqa: S101 - it is there
        return f"{vault.address} {vault.mount}/{self.place}"


def source_of(name: str, config: SecretsConfig) -> SecretSource:
    """Where the secret ``name`` is."""
    if name in config.environment:
        return SecretSource(name, "variable", name)
    vault = config.vault
    for secret in vault.secrets if vault is not None else ():
        if vault is not None and secret.name == name:
            login = placeholders(f"{vault.token} {vault.secret_id}")
            variables = [variable for variable in config.environment if variable in login]
            server = replace(config, environment=variables, vault=replace(vault, secrets=[]))
            key = msgspec.json.encode(server)
            return SecretSource(name, "vault", f"{secret.path}#{secret.key}", server, key)
    return SecretSource(name, "file", config.directory)


Found = Mapping[SecretSource, str | SecretError]
"""What was found at each source."""


class Secrets:
    """Reads secrets. ``on_exposed`` is told, once, of each file that any user may read."""

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        on_exposed: OnExposed = log_exposed,
    ) -> None:
        self._environment = environment
        self._on_exposed = on_exposed
        self._exposed: set[Path] = set()
        self._vaults: dict[bytes, Vault] = {}
        self.threads = trio.CapacityLimiter(THREADS)

    def credentials(self, texts: Mapping[str, str], config: SecretsConfig) -> "Credentials":
        """``texts`` with the secrets in them, which are read each time that it is called."""
        names = {name for text in texts.values() for name in placeholders(text)}
        return Credentials(texts, {name: source_of(name, config) for name in sorted(names)}, self)

    async def look(self, sources: Iterable[SecretSource], *, anew: bool = False) -> Found:
        """What is at each of ``sources``. Vault's are asked for ``anew``, or may be as old as the
        configuration lets them be. Cancelling leaves nothing behind.
        """
        found: dict[SecretSource, str | SecretError] = {}
        wanted = dict.fromkeys(sources)
        files = [source for source in wanted if source.kind == "file"]

        async def ask(source: SecretSource) -> None:
            found[source] = await self._vault(source).read(source, anew=anew)

        async with trio.open_nursery() as nursery:
            for source in wanted:
                if source.kind == "vault":
                    nursery.start_soon(ask, source)
            found.update(self.look_here([one for one in wanted if one.kind == "variable"]))
            if files:
                try:
                    found.update(await self.in_thread(partial(self.look_here, files)))
                except SecretError as error:
                    found.update(dict.fromkeys(files, error))
        return found

    async def in_thread(self, read: Callable[[], T]) -> T:
        """What ``read`` returns, which reads files and changes nothing: cancelling abandons it.

        Raises:
            SecretError: it takes too long.
        """
        try:
            with trio.fail_after(READ_SECONDS):
                return await trio.to_thread.run_sync(
                    read, abandon_on_cancel=True, limiter=self.threads
                )
        except trio.TooSlowError:
            why = f"its file system does not answer within {READ_SECONDS:g} s"
            raise SecretError(why) from None

    def look_here(self, sources: Collection[SecretSource]) -> Found:
        """``look`` for sources that are not Vault's; blocks for as long as the disk takes."""
        return {source: self._read_here(source) for source in sources}

    def _read_here(self, source: SecretSource) -> str | SecretError:
        try:
            if source.kind == "variable":
                value = self._environment.get(source.place)
                if value is None:
                    return SecretError("it is not set")
                return checked(value.encode(errors="surrogateescape"))
            return read_from(Path(source.place), source.name, self._warn_once)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return SecretError(reason or type(error).__name__)

    def _warn_once(self, file: Path) -> None:
        """A plugin that does not start reads them again and again."""
        if file not in self._exposed:
            self._exposed.add(file)
            self._on_exposed(file)

    # -- Vault ----------------------------------------------------------------------

    def _vault(self, source: SecretSource) -> "Vault":
        from prism.secrets.vault import Vault  # not loaded where there is none: it is large

        assert source.server is not None  # noqa: S101 - its kind says so
        vault = self._vaults.get(source.server_key)
        if vault is None:
            vault = self._vaults[source.server_key] = Vault(source.server, self)
        vault.used_at = time.monotonic()
        return vault

    @property
    def vaults(self) -> "list[Vault]":
        """The Vaults that secrets were read from."""
        return list(self._vaults.values())

    async def tend(self) -> None:
        """Renew what Vault's tokens need renewed now; log out of a Vault that is not used."""
        now = time.monotonic()
        for key, vault in list(self._vaults.items()):
            if now - vault.used_at > IDLE_SECONDS:
                del self._vaults[key]
                await vault.log_out()
            else:
                await vault.tend()

    async def aclose(self) -> None:
        """Log out of each Vault, as far as that is possible in ``LOGOUT_SECONDS``."""
        with trio.CancelScope(shield=True), trio.move_on_after(LOGOUT_SECONDS):
            async with trio.open_nursery() as nursery:
                for vault in self._vaults.values():
                    nursery.start_soon(vault.log_out)
        self._vaults.clear()


@dataclass(frozen=True)
class Credentials:
    """A namespace's credentials, resolved when called; two with the same texts, and the same
    places of secrets, are equal.

    Its repr hides the texts: one that is no reference may be a secret itself.
    """

    texts: Mapping[str, str] = field(repr=False)
    sources: Mapping[str, SecretSource]
    secrets: Secrets = field(compare=False, repr=False)

    @property
    def in_vault(self) -> bool:
        """Does Vault have any of the secrets?"""
        return any(source.kind == "vault" for source in self.sources.values())

    async def __call__(self) -> dict[str, str]:
        """The credentials with their secrets, as they are now. Raises ConfigError."""
        return self.fill(await self.secrets.look(self.sources.values(), anew=True))

    def fill(self, found: Found) -> dict[str, str]:
        """The credentials with the secrets that were found at ``sources``.

        Raises:
            ConfigError: secrets that cannot be had, all of them; it names secrets and their
                places, never values.
        """
        problems = []
        values = {}
        for name, source in self.sources.items():
            value = found[source]
            if not isinstance(value, SecretError):
                values[name] = value
                continue
            message = f'the secret "{name}" cannot be read: {value}'
            problems += [
                ConfigProblem(str(source), 0, 0, f"credentials.{key}", message)
                for key, text in self.texts.items()
                if name in placeholders(text)
            ]
        if problems:
            raise ConfigError(problems)
        return {key: fill(text, values) for key, text in self.texts.items()}
