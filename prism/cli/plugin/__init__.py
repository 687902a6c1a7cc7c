"""``prism plugin``: what concerns plugins. One file per command."""

import click

from prism.cli.plugin.keygen import keygen
from prism.cli.plugin.operate import (
    drain,
    list_plugins,
    logs,
    reload,
    reset,
    restart,
    status,
)
from prism.cli.plugin.sign import sign
from prism.cli.plugin.verify import verify

EPILOG = """\b
Examples:
  prism plugin list
  prism plugin reload user-profiles --version v1.3 --token-file admin.token
  prism plugin keygen release.key
  prism plugin sign --key release.key --name orders --version v1.3 /opt/orders/v1.3/plugin
  prism plugin verify --config prism.yaml
"""


@click.group(epilog=EPILOG)
def plugin() -> None:
    """Operate a running proxy's plugins; sign and verify them."""


for command in (list_plugins, status, reload, restart, drain, reset, logs):
    plugin.add_command(command)
plugin.add_command(keygen)
plugin.add_command(sign)
plugin.add_command(verify)
