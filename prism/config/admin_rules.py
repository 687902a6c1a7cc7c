"""Rules of the admin port: it is never open to other machines without a token."""

from prism.config.nodes import Node, Path, find
from prism.config.report import Report
from prism.config.types import Config
from prism.streams.addresses import can_be_listened_on, check_socket_path, is_loopback, unix_path

NO_HOST = 'expected an IP address or "localhost"'


def check_admin(config: Config, root: Node, report: Report) -> None:
    """Report what is wrong with ``admin``."""
    admin = config.admin
    path: Path = ("admin", "address")
    node = find(root, path)
    socket = unix_path(admin.address)
    if socket is not None:
        if not socket.startswith("/"):
            report.error(node, path, 'after "unix:" an absolute path is expected')
        else:
            try:
                check_socket_path(socket)
            except ValueError as error:
                report.error(node, path, str(error))
        if admin.tls is not None:
            where = (*path[:1], "tls")
            report.error(find(root, where), where, "a Unix socket is not served with TLS")
    elif not can_be_listened_on(admin.address):
        report.error(node, path, f"{NO_HOST}, or unix: and an absolute path")
    elif not is_loopback(admin.address):
        _check_reachable(config, root, report)


def _check_reachable(config: Config, root: Node, report: Report) -> None:
    admin = config.admin
    path: Path = ("admin", "address")
    reach = f"{admin.address} can be reached from other machines"
    if admin.token_file is None and report.sound(("admin", "token_file")):
        message = f"{reach}, so operators need a token; set token_file, or use 127.0.0.1"
        report.error(find(root, path), path, message)
    elif admin.tls is None and not config.insecure and report.sound(("admin", "tls")):
        message = (
            f"{reach}, and the token would pass in plain text; set tls, or accept it with "
            '"insecure: true" at the top level'
        )
        report.error(find(root, path), path, message)
    if admin.without_token in ("read", "change"):
        where = ("admin", "without_token")
        message = f'{reach}: only "probe" may be open without the token'
        report.error(find(root, where), where, message)
