"""The table of states, the page that draws it, and the object that walks it."""

import inspect
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.supervision import lifecycle
from prism.supervision.lifecycle import (
    FIRST,
    OVER,
    SERVING,
    TRANSITIONS,
    IllegalTransition,
    Lifecycle,
    State,
    Trigger,
)

PAGE = (Path(__file__).parents[2] / "docs" / "lifecycle.md").read_text()


def test_the_page_draws_the_table():
    drawn = set(re.findall(r"^    (\w+) --> (\w+): (\w+)$", PAGE, re.MULTILINE))
    assert drawn == {
        (before.name, after.name, trigger.name)
        for before, row in TRANSITIONS.items()
        for trigger, after in row.items()
        if before is not after
    }
    assert set(re.findall(r"\[\*\] --> (\w+)", PAGE)) == {state.name for state in FIRST}
    assert set(re.findall(r"(\w+) --> \[\*\]", PAGE)) == {state.name for state in OVER}


@pytest.mark.parametrize("kind", [State, Trigger])
def test_the_page_explains_each_name_as_the_code_does(kind):
    source = inspect.getsource(kind)
    comments = dict(re.findall(r"^    (\w+) = auto\(\)  # (.+)$", source, re.MULTILINE))
    rows = dict(re.findall(r"^\| ([A-Z_]+) \| (.+) \|$", PAGE, re.MULTILINE))
    assert comments.keys() == kind.__members__.keys()
    assert {name: rows[name] for name in comments} == comments


def test_every_state_can_be_reached_and_left_for_one_that_is_over():
    def reachable(states):
        while True:
            more = states | {after for state in states for after in TRANSITIONS[state].values()}
            if more == states:
                return states
            states = more

    assert reachable(set(FIRST)) == set(State)
    for state in State:
        assert reachable({state}) & OVER
    assert all(Trigger.RETIRED in TRANSITIONS[state] for state in SERVING)


@given(st.sampled_from(sorted(FIRST)), st.lists(st.sampled_from(Trigger), max_size=30))
def test_only_what_the_table_has_moves_it_and_every_move_is_told(first, triggers):
    told = []
    life = Lifecycle(first, "", lambda *step: told.append(step[:2]), now=lambda: len(told))
    for trigger in triggers:
        before = life.state
        expected = TRANSITIONS[before].get(trigger)
        if expected is None:
            with pytest.raises(IllegalTransition, match=f"{trigger} means nothing in {before}"):
                life.move(trigger)
        else:
            assert life.move(trigger) is expected
        if expected not in (None, before):
            assert told[-1] == (before, expected)
    states = [after for _, after in told]
    assert told == list(zip([None, *states], states, strict=False))


def test_no_life_begins_elsewhere():
    with pytest.raises(IllegalTransition):
        Lifecycle(State.READY, "", lambda *_: None, now=lambda: 0.0)
    assert lifecycle.SERVING.isdisjoint(OVER)
