"""What is counted elsewhere, for Prometheus: read when the metrics are scraped, and not before."""

import re
import sys
from collections.abc import Iterable, Iterator

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from prism.calls.memory import Memory
from prism.calls.namespace import Namespace
from prism.calls.overload import STEPS, Overload
from prism.calls.policies import POLICIES
from prism.calls.policies.policy import Measure
from prism.calls.refusals import Refusals
from prism.contract.messages import PluginMetrics
from prism.control.live_config import LiveConfig
from prism.limits.store import LimitsStore
from prism.observability.audit import AuditLog
from prism.secrets import Secrets
from prism.server.statistics import ServerStatistics
from prism.streams.tls import ServerTLS
from prism.supervision.lifecycle import State
from prism.supervision.supervisor import Supervisor

MAX_CUSTOM_METRICS = 50
"""Custom metrics taken from one plugin; each is a series that Prometheus keeps."""

_PLUGIN_COUNTERS = {
    "requests_total": "Calls that the plugin served",
    "requests_failed": "Calls that failed in the plugin",
    "queries_executed": "Queries sent to the backend",
    "cache_hits": "Reads answered from the plugin's cache",
    "cache_misses": "Reads that its cache could not answer",
}
_PLUGIN_GAUGES = {
    "latency_ms": "Duration of the plugin's last call, in milliseconds",
    "connections_active": "Backend connections in use",
    "connections_idle": "Backend connections in the pool, unused",
}
_PLUGIN_LABELS = ["namespace", "plugin", "version", "instance"]
_CUSTOM_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,62}").fullmatch
_LARGEST = sys.float_info.max
_decode_custom = msgspec.json.Decoder(dict[str, object]).decode
_CONNECTIONS = {
    "accepted": "Connections accepted, refused ones too",
    "refused": "Connections over the limit per peer",
    "shed": "Idle connections closed to make room",
    "retired": "Connections closed because of their age",
}


def plugin_metrics(namespaces: Iterable[Namespace]) -> Iterator[Metric]:
    """What plugins report about themselves, from each namespace's current instances.

    The label ``instance`` is new for every generation, so a counter that starts again at zero
    is a series of its own and never looks like a reset.
    """
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {
        **{name: CounterMetricFamily(f"prism_plugin_{name}", text, labels=_PLUGIN_LABELS)
           for name, text in _PLUGIN_COUNTERS.items()},
        **{name: GaugeMetricFamily(f"prism_plugin_{name}", text, labels=_PLUGIN_LABELS)
           for name, text in _PLUGIN_GAUGES.items()},
    }  # fmt: skip
    custom = GaugeMetricFamily(
        "prism_plugin_custom", "Numbers in custom_metrics_json", labels=[*_PLUGIN_LABELS, "name"]
    )
    instances = [
        (namespace, instance) for namespace in namespaces for instance in namespace.slot.instances()
    ]
    for namespace, instance in instances:
        if instance.metrics is None:
            continue
        labels = [namespace.name, instance.plugin, instance.version, instance.id]
        for name, family in families.items():
            family.add_metric(labels, getattr(instance.metrics, name))
        redaction = instance.channel.redaction
        for name, value in custom_metrics(instance.metrics).items():
            if redaction.text(name) == name:
                custom.add_metric([*labels, name], value)
    yield from families.values()
    yield custom


def custom_metrics(metrics: PluginMetrics) -> dict[str, float]:
    """The usable numbers of ``custom_metrics_json``: a flat object, bounded in size.

    A plugin's mistake here costs it the metric and nothing else.
    """
    try:
        reported = _decode_custom(metrics.custom_metrics_json or "{}")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    usable: dict[str, float] = {}
    for name, value in reported.items():
        if len(usable) == MAX_CUSTOM_METRICS:
            break
        if isinstance(value, int | float) and _CUSTOM_NAME(name) and abs(value) <= _LARGEST:
            usable[name] = float(value)
    return usable


def policy_metrics(namespaces: Iterable[Namespace]) -> Iterator[Metric]:
    """What the policies of each namespace count."""
    families: dict[Measure, CounterMetricFamily | GaugeMetricFamily] = {}
    for kind in POLICIES:
        for measure in kind.measures:
            family = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
            families[measure] = family(
                measure.name, measure.text, labels=["namespace", *measure.labels]
            )
    for namespace in namespaces:
        for policy in namespace.policies:
            for measure, labels, value in policy.measure():
                families[measure].add_metric([namespace.name, *labels], value)
    yield from families.values()


def supervision_metrics(supervisor: Supervisor) -> Iterator[Metric]:
    """States, restarts, reloads, retries. Labels come from the configuration alone."""
    state = GaugeMetricFamily(
        "prism_plugin_state", "1 for the state that the plugin is in", labels=["namespace", "state"]
    )
    transitions = CounterMetricFamily(
        "prism_plugin_transitions", "Times a state was entered", labels=["namespace", "state"]
    )
    restarts = CounterMetricFamily(
        "prism_plugin_restarts",
        "Replacements that nobody asked for, and new starts after a crash",
        labels=["namespace"],
    )
    reloads = CounterMetricFamily(
        "prism_plugin_reloads",
        "Reloads, restarts and drains, by outcome",
        labels=["namespace", "outcome"],
    )
    waiting = GaugeMetricFamily(
        "prism_requests_waiting", "Calls that wait for a plugin to come back", labels=["namespace"]
    )
    retries = CounterMetricFamily(
        "prism_request_retries",
        "Calls made again, by the reason for which that was safe and useful",
        labels=["namespace", "reason"],
    )
    rotations = CounterMetricFamily(
        "prism_secret_rotations",
        "Reloads for secrets that had changed, by outcome",
        labels=["namespace", "outcome"],
    )
    stale = GaugeMetricFamily(
        "prism_secrets_stale",
        "1 while the plugin has other credentials than its secrets say, or these are missing",
        labels=["namespace"],
    )
    forgiven = CounterMetricFamily(
        "prism_plugin_forgiven",
        "Mistakes of the plugin's in the frame protocol that ended no connection, by rule",
        labels=["namespace", "rule"],
    )
    isolation = GaugeMetricFamily(
        "prism_plugin_isolation",
        "Whether the plugin's process is kept from it: 1, or 0 where that cannot be had here",
        labels=["namespace", "mechanism", "from"],
    )
    egress = CounterMetricFamily(
        "prism_plugin_egress",
        "Connections of the plugin's process that its `egress` allowed or denied",
        labels=["namespace", "outcome"],
    )
    journals, slots = supervisor.journals, supervisor.slots
    for status in supervisor.status():
        name = status.namespace
        journal, slot = journals[name], slots[name]
        for each in State:
            state.add_metric([name, each], float(each is status.state))
            transitions.add_metric([name, each], journal.transitions[each])
        restarts.add_metric([name], journal.restarts)
        for outcome, number in journal.reloads.items():
            reloads.add_metric([name, outcome], number)
        for outcome, number in journal.rotations.items():
            rotations.add_metric([name, outcome], number)
        stale.add_metric([name], float(bool(status.secrets)))
        waiting.add_metric([name], slot.waiting)
        for reason, number in slot.retried.items():
            retries.add_metric([name, reason], number)
        for rule, number in journal.forgiven.items():
            forgiven.add_metric([name, rule], number)
        for outcome, number in journal.egress.items():
            egress.add_metric([name, outcome], number)
        if status.isolation is not None:
            how = status.isolation.mechanism
            for what in status.isolation.holds:
                isolation.add_metric([name, how, what], 1)
            for what in status.isolation.lacks:
                isolation.add_metric([name, how, what], 0)
    yield from (state, transitions, restarts, reloads, rotations, stale)
    yield from (waiting, retries, forgiven, isolation, egress)
    yield from _replica_metrics(supervisor)


def _replica_metrics(supervisor: Supervisor) -> Iterator[Metric]:
    """How each replica stands, of plugins that have several."""
    labels = ["namespace", "replica", "zone"]
    serving = GaugeMetricFamily(
        "prism_replica_serving", "Whether the replica has an instance", labels=labels
    )
    in_flight = GaugeMetricFamily(
        "prism_replica_in_flight", "Calls that the replica has", labels=labels
    )
    share = GaugeMetricFamily(
        "prism_replica_share",
        "Share of the calls that it gets while all are idle: less while it is new, 0 while ejected",
        labels=labels,
    )
    ejected = GaugeMetricFamily(
        "prism_replica_ejected", "1 while it gets no calls because too many failed", labels=labels
    )
    ejections = CounterMetricFamily(
        "prism_replica_ejections", "Times it was ejected", labels=labels
    )
    for status in supervisor.status():
        for each in status.replicas:
            values = [status.namespace, each.name, each.zone]
            serving.add_metric(values, float(each.instance is not None))
            in_flight.add_metric(values, each.in_flight)
            share.add_metric(values, each.share)
            ejected.add_metric(values, float(each.ejected_for is not None))
            ejections.add_metric(values, each.ejections)
    yield from (serving, in_flight, share, ejected, ejections)


def vault_metrics(secrets: Secrets) -> Iterator[Metric]:
    """How each Vault stands that secrets come from."""
    up = GaugeMetricFamily(
        "prism_vault_up", "1 while Vault answers, 0 while it is down", labels=["address"]
    )
    for vault in secrets.vaults:
        up.add_metric([vault.config.address], float(not vault.down))
    yield up


def limits_metrics(store: LimitsStore) -> Iterator[Metric]:
    """How the store stands that rate limits are shared by, if there is one."""
    if not store.is_shared:
        return
    yield GaugeMetricFamily(
        "prism_limits_store_up", "1 while the limits store answers", float(not store.down)
    )
    yield CounterMetricFamily(
        "prism_limits_store_round_trips", "Times the limits store was asked", store.asked
    )
    yield CounterMetricFamily(
        "prism_limits_store_failures", "Times the limits store went down", store.failures
    )


def memory_metrics(memory: Memory) -> Iterator[Metric]:
    """What requests and answers take."""
    for kind, account in (("request", memory.requests), ("answer", memory.answers)):
        yield GaugeMetricFamily(
            f"prism_{kind}_memory_bytes", f"Bytes that {kind}s take now", account.used
        )
        yield GaugeMetricFamily(
            f"prism_{kind}_memory_limit_bytes", f"Bytes that {kind}s may take", account.limit
        )


def shedding_metrics(overload: Overload) -> Iterator[Metric]:
    """How much the proxy has to do, and refuses for that."""
    if overload.config is None:
        return
    yield GaugeMetricFamily(
        "prism_shedding_step",
        f"How much is refused: 0 is nothing, {len(STEPS) - 1} all calls",
        overload.step,
    )
    yield GaugeMetricFamily(
        "prism_shedding_loop_lag_seconds", "How late the event loop is", overload.delay
    )


def refusal_metrics(refusals: Refusals) -> Iterator[Metric]:
    """Refused calls whose clients are told later."""
    yield GaugeMetricFamily(
        "prism_refusals_waiting", "Refused calls whose clients are told in a moment", refusals.held
    )
    yield CounterMetricFamily(
        "prism_refusals_late",
        "Refused calls whose clients were told later, since they had too many refused",
        refusals.late,
    )


def server_metrics(statistics: ServerStatistics, tls: ServerTLS | None) -> Iterator[Metric]:
    """The data port's connections and certificate; ``tls`` is ``None`` for a port in clear text."""
    yield GaugeMetricFamily("prism_connections", "Open connections", statistics.connections)
    for name, meaning in _CONNECTIONS.items():
        yield CounterMetricFamily(f"prism_connections_{name}", meaning, getattr(statistics, name))
    if tls is None:
        return
    yield GaugeMetricFamily(
        "prism_tls_handshakes_waiting",
        "Clients in the queue for a handshake",
        statistics.handshakes_waiting,
    )
    yield CounterMetricFamily(
        "prism_tls_handshakes_failed",
        "Handshakes that came to nothing",
        statistics.handshakes_failed,
    )
    yield CounterMetricFamily(
        "prism_tls_reloads", "Times the certificate was read again", tls.reloads
    )
    yield CounterMetricFamily(
        "prism_tls_reloads_failed",
        "Of these, how often the old one stayed in use",
        tls.failed_reloads,
    )
    if tls.certificate is not None:
        yield GaugeMetricFamily(
            "prism_tls_certificate_expiry_timestamp_seconds",
            "When the certificate in use ends, in Unix time",
            tls.certificate.expires,
        )


def config_metrics(config: LiveConfig) -> Iterator[Metric]:
    """What became of changes of the configuration."""
    yield GaugeMetricFamily(
        "prism_config_generation", "Configurations used so far", config.generation
    )
    yield GaugeMetricFamily(
        "prism_config_last_reload_successful",
        "Whether the last attempt to change the configuration succeeded",
        float(config.settled),
    )
    yield GaugeMetricFamily(
        "prism_config_last_reload_success_timestamp_seconds",
        "When the configuration in use was taken into use",
        config.changed_at,
    )


def audit_metrics(audit: AuditLog) -> Iterator[Metric]:
    """How the audit log fares."""
    yield CounterMetricFamily(
        "prism_audit_records", "Calls recorded in the audit log", audit.written
    )
    yield CounterMetricFamily(
        "prism_audit_lost", "Calls that found no room in the audit log", audit.lost
    )
    yield GaugeMetricFamily("prism_audit_waiting", "Records that wait to be written", audit.waiting)
    yield GaugeMetricFamily(
        "prism_audit_failing", "1 while the audit log cannot be written", float(audit.is_failing)
    )
