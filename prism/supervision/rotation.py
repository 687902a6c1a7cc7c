"""Follows the secrets of what runs: a plugin whose credentials have changed is reloaded.

Theory of operation. Every second all secrets that namespaces name are looked at together (those
of Vault as often as the configuration says, and apart, so that one that hangs holds up no others).
A namespace whose credentials, filled with what was
found, differ from those of its serving instance is reloaded as an operator would: the new
instance proves that the new credentials work before the old one goes. If it cannot, the old one
serves on, which is told, and it is tried again, later and later; at once when the secret changes
again. A change counts when two looks have found the same, since a file may be half written.

A secret that cannot be read any more changes nothing for what runs; the next instance would lack
it, so it is told. A namespace that does not serve is given its next attempt at once where its
credentials can be had now, or are others than those that its last attempt failed with.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from prism.config.errors import ConfigError
from prism.contract.errors import CallError
from prism.secrets import Credentials, Secrets
from prism.supervision.replicas import AnyKeeper
from prism.supervision.roll import replacement_for

INTERVAL = 1.0
"""Seconds between two looks."""
FIRST_PAUSE = 5.0
"""Seconds until new credentials that did not work are tried again; doubled each time."""
LONGEST_PAUSE = 300.0

log = logging.getLogger("prism.secrets")


@dataclass
class _Followed:
    """What is known of one namespace: ``seen`` at the last look, and how often ``failing``
    credentials have failed, which are tried again at ``due``."""

    seen: Mapping[str, str] | None = field(default=None, repr=False)
    failing: Mapping[str, str] | None = field(default=None, repr=False)
    failures: int = 0
    due: float = -math.inf
    busy: bool = False


class Rotation:
    """Follows the ``secrets`` of the namespaces in ``keepers``, which come and go."""

    def __init__(self, keepers: Mapping[str, AnyKeeper], secrets: Secrets) -> None:
        self._keepers = keepers
        self._secrets = secrets
        self._followed: dict[AnyKeeper, _Followed] = {}

    async def run(self) -> None:
        """Follow them until cancelled, which leaves reloads that were begun to their end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, nursery, False)
            nursery.start_soon(self._follow, nursery, True)

    async def _follow(self, nursery: trio.Nursery, in_vault: bool) -> None:
        while True:
            await trio.sleep(INTERVAL)
            try:
                await self.look(nursery, in_vault=in_vault)
                if in_vault:
                    await self._secrets.tend()
            except Exception:  # what runs must not end because its secrets cannot be followed
                log.exception("bug while following secrets")

    async def look(self, nursery: trio.Nursery, *, in_vault: bool) -> None:
        """One look at the credentials that Vault has a part of, or at all others; reloads are
        begun in ``nursery``."""
        followed = {
            keeper: credentials
            for keeper in self._keepers.values()
            if isinstance(credentials := keeper.spec.credentials, Credentials)
            and credentials.sources
            and credentials.in_vault == in_vault
        }
        for keeper in followed:
            self._followed.setdefault(keeper, _Followed())
        for gone in self._followed.keys() - set(self._keepers.values()):
            del self._followed[gone]
        sources = [each for one in followed.values() for each in one.sources.values()]
        found = await self._secrets.look(sources) if sources else {}
        for keeper, credentials in followed.items():
            state = self._followed.get(keeper)
            if (
                state is None
                or keeper.spec.credentials is not credentials
                or keeper.stopping
                or state.busy
            ):
                continue  # another look will be at what it has now
            try:
                filled = credentials.fill(found)
            except ConfigError as error:
                self._is_missing(keeper, state, error)
                continue
            is_settled, state.seen = state.seen == filled, filled
            if is_settled:
                self._compare(keeper, state, filled, nursery)

    def _is_missing(self, keeper: AnyKeeper, state: _Followed, error: ConfigError) -> None:
        state.seen = None
        if keeper.current is not None:
            missing = "; ".join(str(problem) for problem in error.problems)
            self._tell(keeper, f"{missing}; what it has serves on, and a new start would fail")

    def _compare(
        self, keeper: AnyKeeper, state: _Followed, filled: Mapping[str, str], nursery: trio.Nursery
    ) -> None:
        serving = keeper.serving
        if not serving:
            if not keeper.paused and keeper.operation is None and keeper.tried != filled:
                keeper.try_now()
            return
        if all(generation.credentials == filled for generation in serving):
            if keeper.stale:
                log.info(
                    "namespace %s has the credentials again that its secrets say",
                    keeper.spec.namespace,
                )
            keeper.stale, state.failing, state.failures = "", None, 0
            return
        if filled != state.failing:
            state.failing, state.failures, state.due = None, 0, -math.inf
        if keeper.operation is None and trio.current_time() >= state.due:
            state.busy = True
            nursery.start_soon(self._rotate, keeper, state, filled)

    async def _rotate(self, keeper: AnyKeeper, state: _Followed, filled: Mapping[str, str]) -> None:
        """Reload the namespace for ``filled``; the outcome is told."""
        name, spec = keeper.spec.namespace, keeper.spec
        had = next((each.credentials for each in keeper.serving if each.credentials != filled), {})
        keys = ", ".join(key for key in filled if (had or {}).get(key) != filled[key])
        log.info("namespace %s: the secrets in credentials.%s have changed", name, keys)

        async def work() -> str:
            replacement = replacement_for(keeper, spec)
            overlap = spec.may_overlap
            receipt = await (replacement.reload() if overlap else replacement.restart())
            keeper.journal.rotations[receipt.outcome] += 1
            return "" if receipt.outcome == "swapped" else receipt.reason

        try:
            reason = await keeper.perform("secrets", work)
        except CallError as error:  # something else is done with it: the next look will see
            log.debug("namespace %s is not reloaded now: %s", name, error)
            return
        except Exception:  # what runs must not end over it
            log.exception("bug while the secrets of namespace %s were changed", name)
            reason = "a bug, which the log has"
        finally:
            state.busy = False
        if not reason:
            keeper.stale = ""
            log.info("namespace %s uses its changed secrets", name)
            return
        pause = min(FIRST_PAUSE * 2**state.failures, LONGEST_PAUSE)
        state.failing, state.failures = filled, min(state.failures + 1, 16)
        again = f"it is tried again in {pause:g} s"
        if not spec.may_overlap:
            pause, again = math.inf, "it is tried again when the secret changes, or by a reload"
        state.due = trio.current_time() + pause
        self._tell(
            keeper,
            f"the changed secrets in credentials.{keys} do not work: {reason}; "
            f"the instance with the ones before serves on, and {again}",
        )

    @staticmethod
    def _tell(keeper: AnyKeeper, why: str) -> None:
        if keeper.stale != why:
            keeper.stale = why
            log.warning("namespace %s: %s", keeper.spec.namespace, why)
