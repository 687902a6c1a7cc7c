"""What the service manager is told: systemd's notify protocol (sd_notify(3)).

One datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names. A
manager that does not listen is no reason not to serve.
"""

import logging
import os
import socket
import time

logger = logging.getLogger("prism.process")

VARIABLE = "NOTIFY_SOCKET"


def ready(status: str) -> None:
    """This process serves; ``status`` is what ``systemctl status`` shows."""
    _notify("READY=1", f"STATUS={status}")


def stopping(status: str) -> None:
    """This process ends, and nobody takes its place."""
    _notify("STOPPING=1", f"STATUS={status}")


def reloading(status: str) -> None:
    """Files are read again, or a successor is started; ``ready`` or ``replaced`` follows."""
    microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    _notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}", f"STATUS={status}")


def replaced(successor: int, status: str) -> None:
    """The process ``successor`` is the service now; this one only finishes what it has."""
    _notify(f"MAINPID={successor}", "READY=1", f"STATUS={status}")


def _notify(*lines: str) -> None:
    address = os.environ.get(VARIABLE, "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # a name that is in no file system
        address = "\0" + address[1:]
    message = "\n".join(line.replace("\n", " ") for line in lines).encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(message, address)
    except OSError as error:
        logger.warning("the service manager could not be told %s: %s", lines[0], error.strerror)
