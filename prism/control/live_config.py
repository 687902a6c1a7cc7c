"""The configuration in use, and its change for another one while calls run.

File -> ``Config`` (``prism.config``) -> plan (``prism.control.plan``) -> apply: all that can
fail is done by ``Supervisor.apply`` before anything takes effect, and then everything takes
effect in one piece of plain code, ``LiveConfig._take_effect``.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable

import trio

from prism.calls.namespace import Namespace
from prism.calls.router import Router
from prism.config import LoadedConfig
from prism.config.errors import ConfigError
from prism.config.types import Config
from prism.contract.errors import InvalidRequest
from prism.control.plan import ConfigOutcome, ConfigPlan, make_plan, next_specs, taken_over
from prism.secrets import Secrets
from prism.supervision.apply import REMOVED, Applied
from prism.supervision.instance import SHADOW, InstanceSpec, shadow_name
from prism.supervision.slot import Slot
from prism.supervision.supervisor import Supervisor

log = logging.getLogger("prism.config")

Load = Callable[[], LoadedConfig]


class InvalidConfig(InvalidRequest):
    """The configuration that is to be used from now on is wrong; the old one stays."""

    reason = "invalid_config"

    def __init__(self, error: ConfigError) -> None:
        super().__init__(f"the configuration in use stays, since the new one is wrong:\n{error}")
        self.problems = error.problems

    def members(self) -> dict[str, object]:
        names = ("file", "line", "column", "path", "message")
        return {
            "problems": [{name: getattr(found, name) for name in names} for found in self.problems]
        }


class LiveConfig:
    """The configuration ``current``, and how to change it.

    ``load`` reads the file anew, in a thread; without it there is no file. ``secrets`` reads the
    secrets that a configuration names. ``settled`` is
    false while the last attempt to apply it failed; ``changed_at`` is a Unix time.
    """

    def __init__(
        self,
        current: Config,
        router: Router,
        supervisor: Supervisor,
        load: Load | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        self.current = current
        self.generation = 1
        self.settled = True
        self.changed_at = time.time()
        self._router = router
        self._supervisor = supervisor
        self._load = load
        self._secrets = secrets or Secrets()
        self._unfinished: set[str] = set()

    @property
    def has_file(self) -> bool:
        """Is there a file to apply?"""
        return self._load is not None

    async def plan(self) -> ConfigPlan:
        """What ``apply`` would do now. Cancelling leaves nothing behind.

        Raises:
            InvalidConfig: the file is wrong; lists every problem.
            InvalidRequest: there is no file.
        """
        _, plan = self._plan(await self._read())
        return plan

    async def apply(self) -> ConfigOutcome:
        """Make the file, as it is now, the configuration in use; the outcome is logged.

        Returns when what was replaced or removed has ended. Cancelling the wait does not
        take back what was begun, and its outcome is noted all the same.

        Raises:
            InvalidConfig: the file is wrong; lists every problem.
            InvalidRequest: there is no file.
            OperationInProgress: a plugin that would change is being changed already.
            Draining: the proxy stops.
        """
        try:
            loaded = await self._read()
        except InvalidConfig:
            self.settled = False
            raise
        specs, plan = self._plan(loaded)

        def commit(added: dict[str, Slot], removed: list[str]) -> None:
            self._take_effect(loaded.config, added, removed)

        def ended(applied: Applied) -> None:
            outcomes.append(self._note(plan, applied))

        outcomes: list[ConfigOutcome] = []
        await self._supervisor.apply(specs, commit, ended)
        return outcomes[0]

    async def _read(self) -> LoadedConfig:
        if self._load is None:
            raise InvalidRequest(
                "this proxy has no configuration file to read again; start it with "
                "`prism serve --config FILE`"
            )
        try:
            # Abandoned, it changes nothing: a file system that hangs must not hold up the stop.
            return await trio.to_thread.run_sync(self._load, abandon_on_cancel=True)
        except ConfigError as error:
            raise InvalidConfig(error) from None

    def _plan(self, loaded: LoadedConfig) -> tuple[list[InstanceSpec], ConfigPlan]:
        running = self._supervisor.specs
        specs = next_specs(
            loaded.config, self.current, running, self._secrets, self._unfinished, loaded.file
        )
        return specs, make_plan(loaded, self.current, running, self._supervisor.plan(specs))

    def _take_effect(self, config: Config, added: dict[str, Slot], removed: list[str]) -> None:
        self._router.overload.configure(config.shedding)
        self._router.limits_store.configure(config.limits_store, config.secrets)
        for name in removed:
            if not name.endswith(SHADOW):
                self._router.remove(name, REMOVED)
        for namespace in config.namespaces:
            slot = added.get(namespace.name)
            shadow = added.get(shadow_name(namespace.name))
            if slot is not None and not self._router.has(namespace.name):
                is_open = self.current.authentication is None
                self._router.add(
                    Namespace.from_config(namespace, slot, is_open=is_open, shadow=shadow)
                )
            else:
                found = self._router.find(namespace.name)
                if slot is not None:
                    self._router.use_slot(found, slot)
                if shadow is not None:
                    found.shadow = shadow
                # A file without authentication has no access either, and takes a new process:
                # until then this one's rules stay.
                with_access = config.authentication is not None
                found.update(namespace, with_access=with_access)
        if config.log.level != self.current.log.level:
            logging.getLogger().setLevel(config.log.level.upper())
        self.current = taken_over(self.current, config)
        self.generation += 1
        self.changed_at = time.time()

    def _note(self, plan: ConfigPlan, applied: Applied) -> ConfigOutcome:
        self.settled = applied.applied
        if applied.applied:
            self._unfinished = {
                receipt.namespace
                for receipt in applied.receipts
                if receipt.outcome in ("rolled_back", "partial", "failed")
            }
        outcome = ConfigOutcome(
            file=plan.file,
            applied=applied.applied,
            generation=self.generation,
            changes=plan.changes,
            settings=plan.settings,
            warnings=plan.warnings,
            failures=applied.failures,
            receipts=applied.receipts,
        )
        _log_outcome(outcome)
        return outcome


def _log_outcome(outcome: ConfigOutcome) -> None:
    if not outcome.applied:
        reasons = "; ".join(f"{name}: {why}" for name, why in outcome.failures.items())
        log.error("%s is not applied, and nothing has changed: %s", outcome.file, reasons)
        return
    counts = Counter(change.action for change in outcome.changes)
    did = ", ".join(f"{number} {action}" for action, number in sorted(counts.items()))
    log.info(
        "%s is applied (generation %d); namespaces: %s",
        outcome.file,
        outcome.generation,
        did or "none",
    )
    for warning in outcome.warnings:
        log.warning("%s", warning)
    waiting = [s.setting for s in outcome.settings if s.takes_effect == "at restart"]
    if waiting:
        log.warning(
            "%s changed in %s, and takes effect in a new process (SIGUSR2: a rolling restart)",
            ", ".join(waiting),
            outcome.file,
        )
    for receipt in outcome.receipts:
        if receipt.outcome == "rolled_back":
            log.error(
                "namespace %s runs as before the change: %s", receipt.namespace, receipt.reason
            )
        elif receipt.outcome == "partial":
            log.error("namespace %s: the change was stopped: %s", receipt.namespace, receipt.reason)
        elif receipt.outcome == "failed":
            log.error("namespace %s has no plugin now: %s", receipt.namespace, receipt.reason)
