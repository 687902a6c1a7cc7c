"""Secrets, read when they are needed: from files, the environment, or HashiCorp Vault.

``Secrets`` reads them, each from the one place that the configuration gives it; ``Credentials``
are a namespace's texts with the places of the secrets in them. What is read is handed to the
plugin (``supervision.generation``) and never logged. ``files`` reads one file.
"""

from prism.secrets.files import read_secret, read_token
from prism.secrets.store import Credentials, Secrets

__all__ = ["Credentials", "Secrets", "read_secret", "read_token"]
