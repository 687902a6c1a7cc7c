from prism.contract.messages import HealthStatus
from prism.sdk import Health, Metrics


def test_a_custom_metric_that_is_no_number_costs_nothing_else(caplog):
    metrics = Metrics(requests_total=3, custom={"pool": object()})
    snapshot = metrics.snapshot()
    assert (snapshot.requests_total, snapshot.custom_metrics_json) == (3, "")
    assert "metrics.custom cannot be reported" in caplog.text


def test_custom_metrics_travel_as_json():
    metrics = Metrics(cache_hits=2, custom={"pool": 1.5})
    snapshot = metrics.snapshot()
    assert (snapshot.cache_hits, snapshot.custom_metrics_json) == (2, '{"pool":1.5}')


def test_details_are_the_keywords():
    assert Health.healthy().status is HealthStatus.HEALTHY
    assert Health.degraded("slow", lag="3 s").details == {"lag": "3 s"}
    assert Health.unhealthy("gone").message == "gone"
