"""The bearer token of the admin port: read from its file, compared, never shown."""

import hashlib
import hmac
import logging
from pathlib import Path

from prism.config import read_secret
from prism.config.errors import ConfigError, ConfigProblem

SHORTEST = 16
"""Characters: fewer can be guessed. ``openssl rand -hex 32`` makes a good one."""

log = logging.getLogger("prism.admin")


class AdminToken:
    """What is in ``file``, or was when it could last be read.

    Kept as a digest: the token itself is nowhere in memory for longer than it takes to
    make one, and digests have one length, whatever is compared.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._digest = self._read()

    def matches(self, given: bytes) -> bool:
        """Is this the token? Takes the same time wherever the difference is."""
        return hmac.compare_digest(hashlib.sha256(given).digest(), self._digest)

    def reload(self) -> bool:
        """Read the file again. If it cannot be used, say why and keep the token in use."""
        try:
            self._digest = self._read()
        except ConfigError as error:
            log.error("the admin token in use stays: %s", error)
            return False
        return True

    def _read(self) -> bytes:
        try:
            token = read_secret(self._file)
            if len(token) < SHORTEST:
                raise ValueError(f"it is shorter than {SHORTEST} characters")
            if not (token.isascii() and token.isprintable() and " " not in token):
                raise ValueError("it is not one line of ASCII without spaces")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            message = f"the admin token cannot be used: {reason}"
            problem = ConfigProblem(str(self._file), 0, 0, "admin.token_file", message)
            raise ConfigError([problem]) from None
        return hashlib.sha256(token.encode("ascii")).digest()
