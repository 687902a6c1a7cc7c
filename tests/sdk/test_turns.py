"""What is done at the end of a task's turn."""

from prism.sdk.turns import Turns, turns


def test_what_is_to_be_done_at_the_end_of_a_turn_is_done_once():
    turn = Turns()
    done = []
    turn.begin()
    turn.at_end(lambda: done.append(1))
    assert turn.run
    assert not done
    turn.end()
    assert done == [1]
    assert not turn.run
    turn.begin()
    turn.end()
    assert done == [1]


def test_a_turn_that_is_passed_on_ends_in_the_other_task():
    turn = Turns()
    done = []
    turn.begin()
    turn.at_end(lambda: done.append(1))
    turn.pass_on()
    assert not turn.run
    assert not done
    turn.begin()
    turn.at_end(lambda: done.append(2))
    turn.end()
    assert done == [1, 2]


def test_no_turn_runs_while_its_end_is_acted_on():
    turn = Turns()
    seen = []
    turn.begin()
    turn.at_end(lambda: seen.append(turn.run))
    turn.end()
    assert seen == [False]


def test_outside_of_a_session_there_are_none():
    assert turns.get() is None
