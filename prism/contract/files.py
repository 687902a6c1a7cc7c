"""Files in PEM that say whom to trust, and who one is: certificates, authorities, private keys."""

import os
import stat
from pathlib import Path

PEMFile = str | os.PathLike[str]


def unfit_pem(file: PEMFile) -> str:
    """Why ``file`` is not to be used; empty if nothing is known against it. Blocks.

    It cannot be read, which libraries do not say of several files; or any user may change it,
    and decide whom to trust.
    """
    try:
        with Path(file).open("rb") as opened:
            opened.read(1)
            mode = os.fstat(opened.fileno()).st_mode
    except OSError as error:
        return error.strerror or type(error).__name__
    if stat.S_ISREG(mode) and mode & stat.S_IWOTH:
        return f"any user may change it (mode {stat.S_IMODE(mode):04o}); chmod it to 0600"
    return ""


def exposed_key(file: PEMFile) -> str:
    """What to say of the private key in ``file`` if any user may read it: it is nobody's alone
    then. Empty if that is not so. Blocks."""
    try:
        mode = Path(file).stat().st_mode
    except OSError:
        return ""
    readable = stat.S_ISREG(mode) and mode & stat.S_IROTH
    return f"any user may read the private key {file}; chmod it to 0600" if readable else ""
