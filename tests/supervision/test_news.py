import logging

from prism.contract.messages import HealthCheckResponse, HealthStatus, PluginMetrics
from prism.supervision.instance import Instance
from prism.supervision.journal import Journal
from prism.supervision.news import MAX_RECORDS_PER_SECOND, News
from prism.wire.events import GoAway, LogRecord, Note


async def test_log_records_arrive_under_the_plugins_name(caplog):
    news = News(Journal("ns"), "small", "ns/1")
    records = [LogRecord("a message", "WARNING", "mine"), LogRecord("odd %s", "NO SUCH LEVEL")]
    with caplog.at_level("INFO"):
        news.take(Note(logs=records))
    found = [(r.name, r.levelno, r.getMessage(), r.fields) for r in caplog.records]
    assert found == [
        ("prism.plugin.small", 30, "a message", {"namespace": "ns", "source": "mine"}),
        ("prism.plugin.small", 20, "odd %s", {"namespace": "ns", "source": "prism.plugin.small"}),
    ]


async def test_a_flood_of_records_is_cut_and_counted(caplog, mock_clock):
    news = News(Journal("ns"), "small", "ns/1")
    flood = Note(logs=[LogRecord("x", "INFO")] * (MAX_RECORDS_PER_SECOND + 7))
    with caplog.at_level(logging.INFO):
        news.take(flood)
        assert len(caplog.records) == MAX_RECORDS_PER_SECOND
        mock_clock.jump(1)
        news.take(Note(logs=[LogRecord("y")]))
    assert [r.getMessage() for r in caplog.records[-2:]] == [
        "7 log records were dropped: too many at once",
        "y",
    ]


async def test_metrics_and_health_belong_to_the_instance():
    said = []
    news = News(Journal("ns"), "small", "ns/1", said.append)
    metrics, health = (
        PluginMetrics(requests_total=3),
        HealthCheckResponse(status=HealthStatus.DEGRADED),
    )
    news.take(Note(metrics=metrics))
    news.instance = Instance("ns", 1, "p", "1", channel=None, operations={})
    news.take(Note(metrics=metrics))
    news.take(Note(health=health))
    assert (news.instance.metrics, said) == (metrics, [health])


async def test_goaway_is_heard():
    news = News(Journal("ns"), "small", "ns/1")
    assert not news.leaving.is_set()
    news.goaway(GoAway(0, "upgrade"))
    assert news.leaving.is_set()
