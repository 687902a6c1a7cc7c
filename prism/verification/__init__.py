"""May this plugin's code run? Asked, and answered, before any of it does.

From the bottom: ``refusals`` (one exception and a table of checks), ``trust`` (who can
have written a file), ``content`` (its bytes, read once and kept), ``signature`` (who
vouches for them), ``judge`` (pins, signatures and policy), ``command`` and ``module``
(which files a plugin is, and how it is imported), ``verify`` (the checks in their order).
``signing`` is for those who build plugins. docs/plugin-verification.md says what is promised.
"""

from prism.verification.judge import Verdict, log_verdict
from prism.verification.module import VerifiedModule
from prism.verification.verify import VerifiedCommand, Verifier

__all__ = ["Verdict", "VerifiedCommand", "VerifiedModule", "Verifier", "log_verdict"]
