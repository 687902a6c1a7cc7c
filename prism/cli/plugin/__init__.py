"""``prism plugin``: what concerns plugins. One file per command."""

import click

from prism.cli.plugin.keygen import keygen
from prism.cli.plugin.sign import sign
from prism.cli.plugin.verify import verify

EPILOG = """\b
Examples:
  prism plugin keygen release.key
  prism plugin sign --key release.key --name orders --version v1.3 /opt/orders/v1.3/plugin
  prism plugin verify --config prism.yaml
"""


@click.group(epilog=EPILOG)
def plugin() -> None:
    """Sign and verify plugins."""


plugin.add_command(keygen)
plugin.add_command(sign)
plugin.add_command(verify)
