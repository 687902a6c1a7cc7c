import pytest

from prism.calls.call import Call


class Record(Call):
    """A call that is over: what the log and the metrics read of it."""

    __slots__ = ()

    def read_params(self, limit):
        raise AssertionError

    def send_result(self, result, content_type):
        raise AssertionError

    def send_error(self, error):
        raise AssertionError

    def observe(self):
        raise AssertionError


@pytest.fixture
def make_record():
    def make(**facts):
        record = Record(0.0, None)
        for name, value in facts.items():
            setattr(record, name, value)
        return record

    return make
