"""The table of states."""

import pytest

from app.jobs.status import SHOWN, TRANSITIONS, JobState, Webhook, new_job_id


def test_every_state_is_in_the_table_and_reached_from_the_first():
    assert set(TRANSITIONS) == set(JobState)
    reached, todo = set(), [JobState.QUEUED]
    while todo:
        state = todo.pop()
        reached.add(state)
        todo += TRANSITIONS[state] - reached
    assert reached == set(JobState)


@pytest.mark.parametrize("state", list(JobState))
def test_who_has_ended_stays_so(state):
    ends = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED}
    assert state.is_final == (state in ends)


def test_callers_see_no_difference_between_queued_and_delayed():
    assert JobState.DELAYED.shown is JobState.QUEUED
    assert JobState.DELAYED not in SHOWN and len(SHOWN) == len(JobState) - 1


def test_ids_are_in_the_order_of_their_making():
    ids = [new_job_id() for _ in range(3)]
    assert len(set(ids)) == 3 and [one[:16] for one in ids] == sorted(one[:16] for one in ids)


def test_the_secret_of_a_webhook_is_not_shown():
    assert "s3cret" not in repr(Webhook("https://example.com", "s3cret"))
