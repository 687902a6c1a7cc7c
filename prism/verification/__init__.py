"""May this plugin's code run? Asked, and answered, before any of it does.

From the bottom: ``trust`` (who can have written a file), ``content`` and ``tree``
(its bytes, read once and kept), ``signature`` and ``keys`` (who vouches for them),
``judge`` (pins, signatures and policy), ``command`` and ``module`` (which files a
plugin is), ``verify`` (the checks in their order). ``refusals`` has a class for each
way to fail. docs/plugin-verification.md says what is promised.
"""

from prism.verification.judge import Verdict, log_verdict
from prism.verification.module import VerifiedModule
from prism.verification.verify import VerifiedCommand, Verifier

__all__ = ["Verdict", "VerifiedCommand", "VerifiedModule", "Verifier", "log_verdict"]
