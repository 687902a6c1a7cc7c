"""The command line and environment of a plugin process."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prism.sdk.endpoints import FD_VARIABLE, SOCKET_VARIABLE, Address
from prism.sdk.plugin import Plugin


@dataclass(frozen=True)
class Options:
    """How to meet the host: exactly one of ``descriptor``, ``connect``, ``listen`` is set."""

    descriptor: int | None = None
    connect: Address | None = None
    listen: Address | None = None
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    insecure: bool = False
    log_level: str = "INFO"


def parse_options(
    plugin: type[Plugin], argv: Sequence[str], environment: Mapping[str, str]
) -> Options:
    """Read the options; wrong ones end the process with status 2 and a usage message."""
    parser = argparse.ArgumentParser(
        description=f"Prism plugin {plugin.name} {plugin.version}. Started by Prism "
        f"({FD_VARIABLE}), it needs no arguments; otherwise say where its proxy is.",
        epilog="Addresses: unix:/run/prism/plugin.sock, tcp:127.0.0.1:20100, ws:127.0.0.1:20100.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--connect",
        type=_unix_address,
        metavar="ADDRESS",
        help=f"dial the proxy's Unix socket, again and again (default: ${SOCKET_VARIABLE})",
    )
    where.add_argument(
        "--listen", type=_address, metavar="ADDRESS", help="wait for a proxy to connect"
    )
    parser.add_argument("--tls-cert", default="", metavar="FILE", help="certificate chain (PEM)")
    parser.add_argument("--tls-key", default="", metavar="FILE", help="its private key (PEM)")
    parser.add_argument(
        "--tls-client-ca",
        default="",
        metavar="FILE",
        help="accept only proxies with a certificate of this authority (PEM)",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="allow TCP without TLS, on loopback only"
    )
    parser.add_argument(
        "--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"]
    )
    found = parser.parse_args(argv)
    descriptor = None
    connect = found.connect
    try:
        if connect is None and found.listen is None:
            if text := environment.get(FD_VARIABLE, ""):
                descriptor = _descriptor(text)
            elif path := environment.get(SOCKET_VARIABLE, ""):
                connect = Address.unix(path)
            else:
                parser.error(
                    f"nothing says where the proxy is: use --connect or --listen, set "
                    f"{SOCKET_VARIABLE}, or let Prism start this plugin (`command:`)"
                )
        options = Options(
            descriptor=descriptor,
            connect=connect,
            listen=found.listen,
            tls_cert=found.tls_cert,
            tls_key=found.tls_key,
            tls_client_ca=found.tls_client_ca,
            insecure=found.insecure,
            log_level=found.log_level,
        )
        _check(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def _check(options: Options) -> None:
    address = options.listen
    with_tls = bool(options.tls_cert or options.tls_key or options.tls_client_ca)
    if bool(options.tls_cert) != bool(options.tls_key):
        raise ValueError("--tls-cert and --tls-key belong together")
    if options.tls_client_ca and not options.tls_cert:
        raise ValueError("--tls-client-ca needs --tls-cert and --tls-key")
    if address is None or address.is_unix:
        if with_tls:
            raise ValueError("TLS options are for --listen tcp:... and ws:...")
        return
    if with_tls:
        return
    if not options.insecure:
        raise ValueError(
            f"refusing to listen on {address} without TLS: give --tls-cert, --tls-key and "
            "--tls-client-ca, or --insecure for a test on loopback"
        )
    if not address.is_loopback:
        raise ValueError(f"--insecure is for loopback addresses; {address} is not one")


def _descriptor(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{FD_VARIABLE}={text!r} is not a file descriptor")
    return int(text)


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _unix_address(text: str) -> Address:
    address = _address(text)
    if not address.is_unix:
        raise argparse.ArgumentTypeError("plugins dial Unix sockets only; over TCP they listen")
    return address
