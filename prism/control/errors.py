"""Errors of a change of configuration."""

from prism.config.errors import ConfigError
from prism.contract.errors import InvalidRequest


class InvalidConfig(InvalidRequest):
    """The configuration that is to be used from now on is wrong; the old one stays."""

    reason = "invalid_config"

    def __init__(self, error: ConfigError) -> None:
        super().__init__(f"the configuration in use stays, since the new one is wrong:\n{error}")
        self.problems = error.problems
