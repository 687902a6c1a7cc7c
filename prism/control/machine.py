"""What this machine can tell of a configuration: whether all that it names is here, and fits.

A file that is right may name files, programs and users that are on another machine: so these
are findings, apart from the errors of the file. ``prism config check`` shows them as
warnings, and with ``--strict`` as errors. Nothing is started, and no plugin is run.
"""

import grp
import importlib.machinery
import importlib.util
import os
import ssl
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from prism.access.api_keys import read_keys
from prism.calls.overload import LOOKS_AT_NOTHING, cgroup_memory, looks_at_nothing
from prism.config import LoadedConfig, UnresolvedPlugin, resolve_plugin
from prism.config.catalogue import config_type, missing_library, shadow_as_namespace
from prism.config.document import Place
from prism.config.errors import ConfigError, ConfigProblem
from prism.config.hardening import find_weaknesses
from prism.config.sharing import find_shared
from prism.config.sources import is_changeable
from prism.config.typecheck import alternatives, fields_of, meta_of
from prism.config.types import (
    AdminConfig,
    AuthenticationConfig,
    Config,
    ListenerTLS,
    NamespaceConfig,
    PluginConfig,
    PluginForm,
    VerificationConfig,
)
from prism.contract.errors import PrismError
from prism.contract.files import exposed_key, unfit_pem
from prism.hosts.loading import LibraryUnfit, check_library
from prism.secrets import Secrets, read_secret, read_token
from prism.secrets.files import exposed
from prism.secrets.store import Credentials, Found
from prism.streams.addresses import unix_path
from prism.streams.errors import TLSFilesError
from prism.streams.tls import TLSFiles, load_client_context, server_problems, use_revocation_lists
from prism.supervision.process import clean_environment
from prism.verification import Verifier
from prism.verification.command import missing_script, take_apart
from prism.verification.refusals import PluginRefused

NO_FILE = (":memory:", "")
"""What databases call a database that has no file."""


def check_machine(
    loaded: LoadedConfig, *, ask_vault: bool = False
) -> tuple[list[ConfigProblem], list[ConfigProblem]]:
    """Everything that ``loaded`` names and that cannot be used here; then what could be, but
    should not be as it is. Both in the file's order.

    Blocks: reads certificates, secrets and the code of plugins. Secrets that Vault has are
    looked for only with ``ask_vault``, and not within trio.
    """
    root = loaded.root
    assert root is not None  # noqa: S101 - it was loaded from a text
    report = root.report
    errors, warnings = len(report.errors), len(report.warnings)
    config = loaded.config
    secrets = _SecretsHere(config, ask_vault=ask_vault)
    secrets.check_login(root["secrets"]["vault"])
    _check_tls(config.listen.tls, root["listen"]["tls"])
    if config.admin.enabled:
        _check_admin(config.admin, root["admin"])
    if config.authentication is not None:
        _check_authentication(config.authentication, root["authentication"], secrets)
    if config.limits_store is not None:
        _check_authorities(config.limits_store.ca_cert, root["limits_store"]["ca_cert"])
        if config.limits_store.password is not None:
            secrets.check(root["limits_store"]["password"], config.limits_store.password)
    if config.shedding is not None and looks_at_nothing(config.shedding, cgroup_memory()):
        root["shedding"].warning(LOOKS_AT_NOTHING)
    if config.audit is not None:
        _check_audit(Path(config.audit.file), root["audit"]["file"])
    for place, shared in find_shared(config, root):
        place.error(shared)
    for index, namespace in enumerate(config.namespaces):
        directory = Path(loaded.file).absolute().parent
        place = root["namespaces"][index]
        _Namespace(config, namespace, root, place, directory, secrets).check()
        shadow = shadow_as_namespace(namespace)
        if shadow is not None:
            _Namespace(config, shadow, root, place["shadow"], directory, secrets).check()
        if namespace.record is not None:
            _check_audit(Path(namespace.record.file), place["record"]["file"])
    return _in_order(report.errors[errors:]), _in_order(report.warnings[warnings:])


def weaknesses(loaded: LoadedConfig) -> list[ConfigProblem]:
    """What ``loaded`` breaks of the hardening checklist, and who runs this, in the file's order."""
    assert loaded.root is not None  # noqa: S101 - it was loaded from a text
    root = loaded.root
    before = len(root.report.warnings)
    for name, place, advice in find_weaknesses(loaded.config, root):
        place.warning(f"{advice} (hardening: {name})")
    if os.geteuid() == 0:
        root.warning("the proxy should run as a user of its own, not as root (hardening: user)")
    mode = Path(loaded.file).stat().st_mode
    if is_changeable(mode):
        root.warning(
            f"others may change this file (mode {stat.S_IMODE(mode):04o}); chmod it to 0640 "
            "(hardening: file)"
        )
    for name, place in _authorities(loaded.config, root):
        if not name:
            continue
        with suppress(OSError):  # what is not here has been told
            mode = Path(name).stat().st_mode
            if is_changeable(mode):
                place.warning(
                    f"others may change {name} (mode {stat.S_IMODE(mode):04o}), which decides who "
                    "is trusted; chmod it to 0644 (hardening: file)"
                )
    return _in_order(root.report.warnings[before:])


def _authorities(config: Config, at: Place) -> Iterator[tuple[str, Place]]:
    """The files that say which certificates are good, each with its place."""
    for tls, place in ((config.listen.tls, at["listen"]), (config.admin.tls, at["admin"])):
        for key in ("client_ca", "client_crl") if tls is not None else ():
            yield getattr(tls, key) or "", place["tls"][key]
    authentication, here = config.authentication, at["authentication"]
    if authentication is not None:
        for index, issuer in enumerate(authentication.jwt):
            yield issuer.ca_cert or "", here["jwt"][index]["ca_cert"]
        if authentication.introspection is not None:
            yield authentication.introspection.ca_cert or "", here["introspection"]["ca_cert"]
    if config.secrets.vault is not None:
        yield config.secrets.vault.ca_cert or "", at["secrets"]["vault"]["ca_cert"]
    if config.limits_store is not None:
        yield config.limits_store.ca_cert or "", at["limits_store"]["ca_cert"]


def located(loaded: LoadedConfig, error: PrismError) -> PrismError:
    """Why a proxy with ``loaded`` has not started, with the places in the file that name what
    cannot be used; else ``error`` as it is. Blocks."""
    if not isinstance(error, TLSFilesError | ConfigError):
        return error
    missing, _ = check_machine(loaded)
    here = [each for each in missing if not each.path.startswith("namespaces")]
    return ConfigError(here) if here else error


def _in_order(problems: list[ConfigProblem]) -> list[ConfigProblem]:
    return sorted(problems, key=lambda problem: (problem.line, problem.column))


def _check_tls(tls: ListenerTLS | None, at: Place) -> None:
    if tls is None:
        return
    keys = {tls.client_ca: "client_ca", tls.key: "key", tls.cert: "cert"}
    client_ca = Path(tls.client_ca) if tls.client_ca else None
    for file, why in server_problems(Path(tls.cert), Path(tls.key), client_ca):
        at[keys[str(file)]].error(f"{file}: {why}")
    _warn_of_readers(tls.key, at["key"])
    if tls.client_crl is not None:
        try:
            use_revocation_lists(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Path(tls.client_crl))
        except TLSFilesError as error:
            at["client_crl"].error(f"{error.files}: {error.why}")


def _check_admin(admin: AdminConfig, at: Place) -> None:
    _check_tls(admin.tls, at["tls"])
    files = [] if admin.token_file is None else [(admin.token_file, at["token_file"])]
    files += [(token.file, at["tokens"][i]["file"]) for i, token in enumerate(admin.tokens)]
    for file, place in files:
        try:
            read_token(Path(file))
        except (OSError, ValueError) as error:
            place.error(f"{file}: {_reason(error)}")
    socket = unix_path(admin.address)
    if socket is not None:
        _check_directory(Path(socket).parent, at["address"], to_write=True)


def _check_audit(file: Path, at: Place) -> None:
    if not file.exists():
        _check_directory(file.parent, at, to_write=True)
    elif file.is_dir() or not os.access(file, os.W_OK):
        at.error(f"{file} is a directory" if file.is_dir() else f"this user may not write {file}")


def _check_authentication(
    authentication: AuthenticationConfig, at: Place, secrets: "_SecretsHere"
) -> None:
    if authentication.api_keys is not None:
        try:
            read_keys(Path(authentication.api_keys.file))
        except ConfigError as error:
            for problem in error.problems:
                at["api_keys"]["file"].error(str(problem))
    asked = authentication.introspection
    authorities = [(issuer.ca_cert, at["jwt"][i]) for i, issuer in enumerate(authentication.jwt)]
    if asked is not None:
        authorities.append((asked.ca_cert, at["introspection"]))
        secrets.check(at["introspection"]["client_secret"], asked.client_secret)
    for ca_cert, place in authorities:
        _check_authorities(ca_cert, place["ca_cert"])


def _check_authorities(ca_cert: str | None, at: Place) -> None:
    if ca_cert is not None:
        try:
            load_client_context(TLSFiles(ca_cert=ca_cert))
        except TLSFilesError as error:
            at.error(f"{error.files}: {error.why}")


class _SecretsHere:
    """Looks for the secrets that texts of ``config`` name: Vault's only with ``ask_vault``."""

    def __init__(self, config: Config, *, ask_vault: bool) -> None:
        self._config = config.secrets
        self._ask_vault = ask_vault

    def check_login(self, at: Place) -> None:
        """What is needed to log in to Vault, whether or not it is asked."""
        vault = self._config.vault
        if vault is None:
            return
        for key in ("token", "secret_id"):
            if getattr(vault, key) is not None:
                self.check(at[key], getattr(vault, key))
        _check_authorities(vault.ca_cert, at["ca_cert"])
        if vault.kubernetes_role is not None:
            file = Path(vault.kubernetes_token_file)
            try:
                read_secret(file, on_exposed=lambda _: None)
            except (OSError, ValueError) as error:
                at["kubernetes_token_file"].error(f"{file}: {_reason(error)}")

    def check(self, at: Place, text: str) -> None:
        """The secrets in ``text``, which is written at ``at``."""
        secrets = Secrets(on_exposed=lambda file: at.warning(exposed(file)))
        credentials = secrets.credentials({str(at.path[-1]): text}, self._config)
        try:
            credentials.fill(self._look(secrets, credentials))
        except ConfigError as error:
            for problem in error.problems:
                at.error(f"{problem.file}: {problem.message}")

    def _look(self, secrets: Secrets, credentials: Credentials) -> Found:
        sources = credentials.sources.values()
        in_vault = [source for source in sources if source.kind == "vault"]
        found = dict(secrets.look_here([one for one in sources if one.kind != "vault"]))
        if not self._ask_vault:
            return {**found, **dict.fromkeys(in_vault, "")}

        async def ask() -> Found:
            try:
                return await secrets.look(in_vault)
            finally:
                await secrets.aclose()

        return {**found, **trio.run(ask)} if in_vault else found


class _Namespace:
    """Checks one namespace: its secrets, its plugin and what that is told."""

    def __init__(
        self,
        config: Config,
        namespace: NamespaceConfig,
        root: Place,
        at: Place,
        directory: Path,
        secrets: _SecretsHere,
    ) -> None:
        self._config = config
        self._namespace = namespace
        self._root = root
        self._at = at
        self._directory = directory
        self._secrets = secrets

    def check(self) -> None:
        """Report all of it."""
        for key, text in self._namespace.credentials.items():
            self._secrets.check(self._at["credentials"][key], text)
        try:
            plugin = resolve_plugin(self._config, self._namespace)
        except UnresolvedPlugin:
            return
        lacks = missing_library(plugin)
        if lacks is not None:
            self._at["backend"].error(lacks)
        kind = config_type(plugin)
        if kind is not None:
            _check_paths(kind, self._namespace.config, self._at["config"])
        match plugin.form:
            case PluginForm.COMMAND:
                self._check_command(plugin)
                if plugin.socket is not None:
                    self._check_socket(plugin)
            case PluginForm.MODULE:
                self._check_module(plugin)
            case PluginForm.WASM:
                self._check_wasm(plugin)
            case PluginForm.LIBRARY:
                self._check_library(plugin)
            case PluginForm.SOCKET:
                self._check_socket(plugin)
            case PluginForm.ENDPOINT:
                self._check_endpoint(plugin)

    def _place(self, plugin: PluginConfig, key: str) -> Place:
        """Where ``key`` of the plugin is written: in the namespace, or in the catalogue."""
        inline = self._at["plugin"]
        if self._namespace.plugin.type is not None:
            return inline[key]
        for index, entry in enumerate(self._config.plugins):
            if entry.name == plugin.name:
                place = self._root["plugins"][index]
                of_version = place["versions"][plugin.version or ""][key]
                return of_version if of_version.is_written else place[key]
        return inline if inline.is_written else self._at["backend"]

    def _verify(self, plugin: PluginConfig, key: str) -> bool:
        """Whether the plugin may run; for a command, whether its program is there."""
        label = f"plugin {plugin.name or self._namespace.backend!r}"
        config: VerificationConfig = self._config.verification
        try:
            Verifier(plugin, label, config).verify(_search_path(plugin))
        except PluginRefused as error:
            self._place(plugin, key).error(str(error))
            return False
        return True

    def _check_command(self, plugin: PluginConfig) -> None:
        directory = plugin.working_directory
        if directory is not None and not Path(directory).is_dir():
            self._place(plugin, "working_directory").error(f"there is no directory {directory}")
            return
        command = take_apart(plugin.argv, plugin.entry, directory, _search_path(plugin))
        script = missing_script(command)
        place = self._place(plugin, "command")
        if command.program is None:
            place.error(f"there is no program {plugin.argv[0]}")
        elif not os.access(command.program, os.X_OK):
            place.error(f"{command.program} is not executable")
        elif script is not None:
            place.error(f"there is no file {Path(directory or '') / script}")
        else:
            self._verify(plugin, "command")

    def _check_module(self, plugin: PluginConfig) -> None:
        if not self._verify(plugin, "module"):
            return
        package = (plugin.module or "").partition(":")[0].partition(".")[0]
        where = [plugin.path] if plugin.path is not None else [str(self._directory)]
        finder = importlib.machinery.PathFinder
        if finder.find_spec(package, where) is None and (
            plugin.path is not None or importlib.util.find_spec(package) is None
        ):
            self._place(plugin, "module").error(
                f"there is no Python package {package!r}"
                f"{f' in {plugin.path}' if plugin.path else ''}"
            )

    def _check_wasm(self, plugin: PluginConfig) -> None:
        if importlib.util.find_spec("wasmtime") is None:
            lacks = "WebAssembly needs wasmtime: the extra `wasm` (docs/install.md)"
            self._place(plugin, "file").error(lacks)
        elif self._verify(plugin, "file"):
            with open(plugin.file or "", "rb") as file:  # noqa: PTH123 - as it is written
                if file.read(4) != b"\0asm":
                    self._place(plugin, "file").error(
                        f"{plugin.file} is no WebAssembly in binary form"
                    )

    def _check_library(self, plugin: PluginConfig) -> None:
        """Not by loading it, which would run it."""
        place, library = self._place(plugin, "library"), plugin.library or ""
        if not self._verify(plugin, "library"):
            return
        try:
            check_library(library, library)
        except LibraryUnfit as error:
            place.error(str(error))

    def _check_socket(self, plugin: PluginConfig) -> None:
        directory = Path(plugin.socket or "").parent
        if not plugin.dial:  # then the proxy listens, and makes what is missing on the way
            directory = next(each for each in (directory, *directory.parents) if each.exists())
        _check_directory(directory, self._at["plugin"]["socket"], to_write=not plugin.dial)
        if plugin.group is not None:
            try:
                grp.getgrnam(plugin.group)
            except KeyError:
                self._at["plugin"]["group"].error(f"there is no group {plugin.group}")

    def _check_endpoint(self, plugin: PluginConfig) -> None:
        tls = plugin.tls
        if tls is None or not tls.enabled:
            return
        place = self._place(plugin, "tls")
        keys = {tls.ca_cert: "ca_cert", tls.key: "key", tls.cert: "cert"}
        for files in (TLSFiles(ca_cert=tls.ca_cert), TLSFiles(cert=tls.cert, key=tls.key)):
            try:
                load_client_context(files)
            except TLSFilesError as error:
                place[keys.get(error.files, "key")].error(f"{error.files}: {error.why}")
        _warn_of_readers(tls.key or tls.cert, place["key" if tls.key else "cert"])


def _check_paths(block: type[msgspec.Struct], settings: dict[str, Any], at: Place) -> None:
    """The files of a plugin that comes with Prism: a database that it writes, or a certificate
    that it reads (``read`` in the field's ``extra``; ``key`` where that is private)."""
    for name, field in fields_of(block).items():
        value = settings.get(name)
        if isinstance(value, dict):
            inner = next((one.block for one in alternatives(field.type) if one.block), None)
            if inner is not None:
                _check_paths(inner, value, at[name])
        elif meta_of(field.type, "path") and isinstance(value, str) and value not in NO_FILE:
            if meta_of(field.type, "read"):
                _check_pem(value, at[name], is_key=bool(meta_of(field.type, "key")))
            elif Path(value).is_dir():
                at[name].error(f"{value} is a directory")
            else:
                _check_directory(Path(value).parent, at[name], to_write=True)


def _check_pem(file: str, at: Place, *, is_key: bool) -> None:
    if why := unfit_pem(file):
        at.error(f"{file}: {why}")
    elif is_key:
        _warn_of_readers(file, at)


def _warn_of_readers(key: str | None, at: Place) -> None:
    if key is not None and (exposed := exposed_key(key)):
        at.warning(exposed)


def _search_path(plugin: PluginConfig) -> str:
    return clean_environment(plugin.environment)["PATH"]


def _check_directory(directory: Path, at: Place, *, to_write: bool) -> None:
    """That a file, or a socket, can be made there."""
    if not directory.is_dir():
        at.error(f"there is no directory {directory}")
    elif to_write and not os.access(directory, os.W_OK | os.X_OK):
        at.error(f"this user may not write in {directory}")


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or "") if isinstance(error, OSError) else str(error)
