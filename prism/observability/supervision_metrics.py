"""What the supervision counts, for Prometheus: states, restarts, reloads, retries."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from prism.supervision.lifecycle import State
from prism.supervision.supervisor import Supervisor


def supervision_metrics(supervisor: Supervisor) -> Iterator[Metric]:
    """The metric families, read when scraped. Labels come from the configuration alone."""
    state = GaugeMetricFamily(
        "prism_plugin_state", "1 for the state that the plugin is in", labels=["namespace", "state"]
    )
    transitions = CounterMetricFamily(
        "prism_plugin_transitions", "Times a state was entered", labels=["namespace", "state"]
    )
    restarts = CounterMetricFamily(
        "prism_plugin_restarts", "Replacements that nobody asked for", labels=["namespace"]
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
        "prism_request_retries", "Calls given to a second instance", labels=["namespace", "reason"]
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
        waiting.add_metric([name], slot.waiting)
        for reason, number in slot.retried.items():
            retries.add_metric([name, reason], number)
    yield from (state, transitions, restarts, reloads, waiting, retries)
