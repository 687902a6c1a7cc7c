"""The configuration in use, and its change for another one while calls run.

Namespaces, with their plugins, change as one or not at all (``Supervisor.apply``). The rest
of the file takes effect in the same moment where ``config_plan.AT_ONCE`` says so; what remains is
for the next process, which a rolling restart starts without losing a call.

The file says what is wanted only where it has changed: a namespace whose entry is as before
keeps the version that an operator chose for it with a reload.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace as replace_spec
from typing import Any

import trio
from msgspec.structs import replace

from prism.calls.namespace import Namespace
from prism.calls.router import Router
from prism.config import LoadedConfig
from prism.config.errors import ConfigError
from prism.config.types import Config
from prism.contract.errors import InvalidRequest
from prism.control.errors import InvalidConfig
from prism.control.instance_specs import instance_specs
from prism.control.plan import ConfigOutcome, ConfigPlan, NamespaceChange, setting_changes
from prism.supervision.apply import Applied
from prism.supervision.instance import InstanceSpec
from prism.supervision.slot import Slot
from prism.supervision.supervisor import Supervisor

log = logging.getLogger("prism.config")

_GONE = "the namespace was removed"

Load = Callable[[], LoadedConfig]


class LiveConfig:
    """The configuration ``current``, and how to change it.

    ``load`` reads the file anew, in a thread; without it there is no file. ``settled`` is
    false while the last attempt to apply it failed; ``changed_at`` is a Unix time.
    """

    def __init__(
        self,
        current: Config,
        router: Router,
        supervisor: Supervisor,
        load: Load | None = None,
    ) -> None:
        self.current = current
        self.generation = 1
        self.settled = True
        self.changed_at = time.time()
        self._router = router
        self._supervisor = supervisor
        self._load = load
        self._unfinished: set[str] = set()

    @property
    def has_file(self) -> bool:
        """Is there a file to apply?"""
        return self._load is not None

    async def plan(self) -> ConfigPlan:
        """What ``apply`` would do now.

        Raises:
            InvalidConfig: the file is wrong; lists every problem.
            InvalidRequest: there is no file.
        """
        return self._plan(await self._read())

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
        plan = self._plan(loaded)
        specs = self._specs(loaded.config)

        def commit(added: dict[str, Slot], removed: list[str]) -> None:
            self._take_effect(loaded.config, added, removed)

        def ended(applied: Applied) -> None:
            outcomes.append(self._note(plan, applied))

        outcomes: list[ConfigOutcome] = []
        await self._supervisor.apply(specs, commit, ended)
        return outcomes[0]

    def _note(self, plan: ConfigPlan, applied: Applied) -> ConfigOutcome:
        self.settled = applied.applied
        if applied.applied:
            self._unfinished = {
                receipt.namespace
                for receipt in applied.receipts
                if receipt.outcome == "rolled_back"
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
        _tell(outcome)
        return outcome

    async def _read(self) -> LoadedConfig:
        if self._load is None:
            raise InvalidRequest(
                "this proxy has no configuration file to read again; start it with "
                "`prism serve --config FILE`"
            )
        try:
            return await trio.to_thread.run_sync(self._load)
        except ConfigError as error:
            raise InvalidConfig(error) from None

    # -- what would change ----------------------------------------------------

    def _plan(self, loaded: LoadedConfig) -> ConfigPlan:
        running = self._supervisor.specs
        wanted = {spec.namespace: spec for spec in instance_specs(loaded.config)}
        before = {namespace.name: namespace for namespace in self.current.namespaces}
        after = {namespace.name: namespace for namespace in loaded.config.namespaces}
        changes = []
        for change in self._supervisor.plan(self._specs(loaded.config)):
            name, action = change.namespace, change.action
            if action == "stay":
                same = _updatable(before[name]) == _updatable(after[name])
                note = _difference(running[name], wanted[name])
                changes.append(NamespaceChange(name, "stay" if same else "update", note))
            else:
                changes.append(NamespaceChange(name, action))
        return ConfigPlan(
            loaded.file,
            changes,
            list(setting_changes(self.current, loaded.config)),
            [str(warning) for warning in loaded.warnings],
        )

    def _specs(self, config: Config) -> list[InstanceSpec]:
        """What ``config`` wants to run; what runs, where its entry has not changed."""
        before = {spec.namespace: spec for spec in instance_specs(self.current)}
        running = self._supervisor.specs
        specs = []
        for spec in instance_specs(config):
            name = spec.namespace
            if name in running and name not in self._unfinished and before.get(name) == spec:
                spec = replace_spec(
                    running[name], at_version=spec.at_version, verification=spec.verification
                )
            specs.append(spec)
        return specs

    # -- the change -----------------------------------------------------------

    def _take_effect(self, config: Config, added: dict[str, Slot], removed: list[str]) -> None:
        for name in removed:
            self._router.remove(name, _GONE)
        for namespace in config.namespaces:
            if (slot := added.get(namespace.name)) is not None:
                self._router.add(Namespace.from_config(namespace, slot))
            else:
                self._router.find(namespace.name).update(namespace)
        if config.log.level != self.current.log.level:
            logging.getLogger().setLevel(config.log.level.upper())
        self.current = replace(
            self.current,
            namespaces=config.namespaces,
            plugins=config.plugins,
            verification=config.verification,
            secrets=config.secrets,
            handover_timeout_seconds=config.handover_timeout_seconds,
            log=replace(self.current.log, level=config.log.level),
        )
        self.generation += 1
        self.changed_at = time.time()


def _updatable(namespace: Any) -> tuple[Any, ...]:
    return namespace.limits, namespace.description, namespace.while_unavailable


def _difference(running: InstanceSpec, wanted: InstanceSpec) -> str:
    """Where an operator's reload made it run another version than the file says."""
    if running.plugin == wanted.plugin:
        return ""
    return (
        f"runs {running.plugin.version or 'another version'}, which a reload asked for; "
        f"the file says {wanted.plugin.version or 'otherwise'}"
    )


def _tell(outcome: ConfigOutcome) -> None:
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
