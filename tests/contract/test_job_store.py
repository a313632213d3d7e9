"""What the store of jobs promises, on both databases."""

import asyncio
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import func, select

from app.core.errors import IdempotencyKeyReused, InvariantBroken, StorageUnavailable
from app.core.types import Priority
from app.jobs.files import ResultFiles
from app.jobs.sql import FILE_ABOVE_BYTES, SqlJobStore
from app.jobs.status import Ending, JobState, OnceKey, Problem, Webhook
from app.jobs.store import Page
from app.jobs.tables import JOBS, REQUESTS, RESULTS, WEBHOOKS
from tests.contract.job_bench import DONE, LEASE_S, LIMITS, OTHER, OWNER, Bench, a_job

AWAY = Problem("model_unavailable", "it is loading")


@pytest_asyncio.fixture
async def store(database):
    return Bench(database)


async def test_a_job_is_claimed_run_and_kept(store):
    (job_id,) = await store.add(request=b'{"text":"a"}', request_id="r1", model="echo")
    (job,) = await store.take()
    assert (job.id, job.request, job.attempts, job.left_s) == (job_id, b'{"text":"a"}', 1, 1000.0)
    assert await store.state(job_id) is JobState.RUNNING

    assert await store.finish(job, DONE)
    view = await store.view(job_id)
    assert (view.state, view.done, view.model, view.request_id) == (
        JobState.SUCCEEDED,
        1,
        "echo",
        "r1",
    )
    assert await store.result(job_id) == DONE.result
    assert view.result_bytes == len(DONE.result or b"")
    assert await store.take() == []


async def test_a_failure_keeps_its_reason(store):
    job = await store.begun()
    await store.finish(job, Ending(JobState.FAILED, problem=Problem("input_too_long", "300")))
    view = await store.view(job.id)
    assert (view.state, view.problem) == (JobState.FAILED, Problem("input_too_long", "300"))
    assert await store.result(job.id) is None


async def test_jobs_of_others_are_not_there(store):
    (job_id,) = await store.add()
    assert await store.get("you", job_id) is None
    assert await store.cancel("you", job_id) is None
    assert await store.state(job_id) is JobState.QUEUED


async def test_all_of_a_submission_or_nothing(store, database):
    twice = a_job()
    with pytest.raises(Exception, match="(?i)unique"):
        await store.submit([a_job(), twice, twice])
    assert await database.read(lambda c: c.scalar(select(func.count()).select_from(JOBS))) == 0


async def test_many_are_submitted_at_once_and_claimed_in_their_order(store):
    ids = await store.add(2500)
    claimed = [job.id for _ in range(10) for job in await store.take(250)]
    assert claimed == ids


# --- Order ---------------------------------------------------------------------------------------


async def test_callers_share_by_turns(store):
    await store.add(50, caller="heavy")
    first = await store.take(10)
    assert {job.caller for job in first} == {"heavy"}
    await store.add(2, caller="light")
    await store.add(5, caller="heavy")
    later = await store.take(6)
    assert [job.caller for job in later].count("light") == 2


async def test_shares_are_counted_in_inputs(store):
    await store.add(8, caller="wide", inputs=10)
    await store.add(8, caller="narrow", inputs=1)
    callers = [job.caller for job in await store.take(9)]
    assert callers.count("narrow") == 8


async def test_better_classes_go_first_and_the_worst_is_not_forgotten(store):
    await store.add(5, priority=Priority.BATCH)
    store.time.now += 500
    await store.add(40, priority=Priority.INTERACTIVE)
    classes = [job.priority for job in await store.take(20)]
    assert classes.count(Priority.BATCH) == 2
    assert classes[0] is Priority.INTERACTIVE


async def test_two_owners_never_get_the_same_job(store):
    ids = await store.add(60)
    claims = await asyncio.gather(*(store.take(7, f"owner{n}") for n in range(12)))
    claimed = [job.id for claim in claims for job in claim]
    assert sorted(claimed) == sorted(ids)


# --- Leases --------------------------------------------------------------------------------------


async def test_a_job_whose_lease_ran_out_goes_to_another_and_its_first_holder_changes_nothing(
    store,
):
    job = await store.begun()
    store.time.now += LEASE_S + 1
    assert (await store.sweep()).returned == 1
    (again,) = await store.take(owner=OTHER)
    assert (again.id, again.fence, again.attempts) == (job.id, job.fence + 1, 2)

    assert not await store.finish(job, DONE)
    assert not await store.note_parts(job, {0: b"x"}, done=1, failed=0)
    assert not await store.delay(job, 1.0, AWAY)
    assert await store.release({job.id: job.fence}) == 0
    assert await store.finish(again, DONE)
    assert not await store.finish(again, DONE)


async def test_a_lease_that_is_renewed_does_not_run_out(store):
    job = await store.begun()
    store.time.now += LEASE_S - 1
    assert await store.renew({job.id: job.fence}, LEASE_S) == await store.renew({}, LEASE_S)
    store.time.now += LEASE_S - 1
    assert (await store.sweep()).returned == 0


async def test_a_renewal_tells_what_is_lost(store):
    job, other = await store.begun(), await store.begun()
    store.time.now += LEASE_S + 1
    await store.sweep()
    (again,) = await store.take(owner=OTHER)
    told = await store.renew({job.id: job.fence, other.id: other.fence}, LEASE_S)
    assert told.lost == {job.id, other.id}
    mine = await store.renew({again.id: again.fence}, LEASE_S)
    assert mine.lost == set()


async def test_a_clock_that_is_set_back_ends_no_lease_and_gives_no_job_twice(store):
    job = await store.begun()
    store.time.now -= 3600
    assert (await store.sweep()).returned == 0
    assert await store.take(owner=OTHER) == []
    assert await store.finish(job, DONE)


async def test_a_job_that_ends_its_servers_is_not_tried_for_ever(store):
    (job_id,) = await store.add()
    for attempt in range(LIMITS.max_attempts):
        (job,) = await store.take()
        assert job.attempts == attempt + 1
        store.time.now += LEASE_S + 1
        swept = await store.sweep()
    assert (swept.returned, swept.dead) == (0, 1)
    view = await store.view(job_id)
    assert view.state is JobState.FAILED and view.problem is not None
    assert view.problem.code == "dead_letter"


async def test_a_job_that_was_given_back_has_lost_no_attempt_and_no_place(store):
    job = await store.begun()
    await store.add(3)
    assert await store.release({job.id: job.fence}) == 1
    (again,) = await store.take()
    assert (again.id, again.attempts, again.fence) == (job.id, 1, job.fence + 1)


async def test_what_a_dead_owner_held_is_taken_back_at_once(store):
    job = await store.begun()
    await store.add()
    (others,) = await store.take(owner=OTHER)
    assert await store.recover(OWNER) == 1
    assert await store.state(job.id) is JobState.QUEUED
    assert await store.state(others.id) is JobState.RUNNING


# --- Later, never, enough ------------------------------------------------------------------------


async def test_a_job_that_was_put_off_comes_back_when_it_is_due(store):
    job = await store.begun()
    assert await store.delay(job, 10.0, AWAY)
    view = await store.view(job.id)
    assert (view.state, view.problem, view.attempts) == (JobState.DELAYED, AWAY, 0)
    assert await store.take() == [] and not await store.has_due()
    store.time.now += 10
    assert await store.has_due()
    (again,) = await store.take()
    assert (again.id, again.attempts) == (job.id, 1)


async def test_waiting_jobs_are_cancelled_at_once(store):
    (queued,) = await store.add()
    (delayed,) = await store.take()
    await store.delay(delayed, 10.0, AWAY)
    (other,) = await store.add()
    for job_id in (queued, other):
        view = await store.cancel("me", job_id)
        assert view is not None and view.state is JobState.CANCELLED
    store.time.now += 20
    assert await store.take() == []


async def test_the_holder_of_a_job_is_told_to_stop_it(store):
    job = await store.begun()
    view = await store.cancel("me", job.id)
    assert view is not None
    assert (view.state, view.is_cancelling) == (JobState.RUNNING, True)
    assert (await store.renew({job.id: job.fence}, LEASE_S)).cancelled == {job.id}
    assert await store.finish(job, Ending(JobState.CANCELLED))
    assert await store.state(job.id) is JobState.CANCELLED


async def test_a_job_to_be_cancelled_is_not_run_again_when_its_holder_dies(store):
    job = await store.begun()
    await store.cancel("me", job.id)
    store.time.now += LEASE_S + 1
    await store.sweep()
    assert await store.state(job.id) is JobState.CANCELLED


async def test_cancelling_what_has_ended_changes_nothing(store):
    job = await store.begun()
    await store.finish(job, DONE)
    view = await store.cancel("me", job.id)
    assert view is not None and view.state is JobState.SUCCEEDED and not view.is_cancelling


async def test_what_is_past_its_deadline_expires_with_the_reason_of_its_delay(store):
    job = await store.begun(timeout_s=5.0)
    await store.delay(job, 100.0, AWAY)
    await store.add(timeout_s=50.0)
    store.time.now += 6
    assert (await store.sweep()).expired == 1
    view = await store.view(job.id)
    assert view.state is JobState.EXPIRED and view.problem is not None
    assert view.problem.code == "deadline_exceeded" and "it is loading" in view.problem.message


async def test_what_was_kept_long_enough_is_deleted_with_all_that_belongs_to_it(store, database):
    job = await store.begun(inputs=2, webhook=Webhook("https://example.com", "secret"))
    await store.note_parts(job, {0: b"x"}, done=1, failed=0)
    await store.finish(job, DONE)
    store.time.now += LIMITS.keep_s
    (waiting,) = await store.add()
    assert (await store.sweep()).deleted == 1
    assert await store.get("me", job.id) is None
    for table in (RESULTS, WEBHOOKS):
        count = select(func.count()).select_from(table)
        assert await database.read(lambda c, count=count: c.scalar(count)) == 0
    assert await database.read(lambda c: c.scalar(select(REQUESTS.c.job_id))) == waiting


# --- Parts and results ---------------------------------------------------------------------------


async def test_parts_outlive_their_server_and_go_with_the_end(store):
    job = await store.begun(inputs=3)
    assert await store.note_parts(job, {0: b"a", 2: b"c"}, done=2, failed=1)
    await store.recover(OWNER)
    (again,) = await store.take()
    assert again.done == 2
    assert await store.parts(job.id) == {0: b"a", 2: b"c"}
    view = await store.view(job.id)
    assert (view.done, view.failed, view.inputs) == (2, 1, 3)
    await store.finish(again, DONE)
    assert await store.parts(job.id) == {}


LARGE = Ending(JobState.SUCCEEDED, b"x" * (FILE_ABOVE_BYTES + 1))


@pytest_asyncio.fixture
async def filing(database, tmp_path):
    return Bench(database, ResultFiles(tmp_path / "results"))


async def test_large_results_are_files_and_go_with_their_job(filing, tmp_path: Path):
    job = await filing.begun()
    await filing.finish(job, LARGE)
    assert await filing.result(job.id) == LARGE.result
    assert len(list((tmp_path / "results").iterdir())) == 1
    filing.time.now += LIMITS.keep_s
    await filing.sweep()
    assert list((tmp_path / "results").iterdir()) == []


async def test_small_results_are_no_files(filing, tmp_path: Path):
    job = await filing.begun()
    await filing.finish(job, Ending(JobState.SUCCEEDED, b"x" * FILE_ABOVE_BYTES))
    assert not (tmp_path / "results").exists()


async def test_the_file_of_who_lost_his_lease_is_deleted_and_that_of_who_won_is_not(
    filing, tmp_path: Path
):
    job = await filing.begun()
    await filing.recover(OWNER)
    (again,) = await filing.take(owner=OTHER)
    assert not await filing.finish(job, LARGE)
    assert list((tmp_path / "results").iterdir()) == []
    assert await filing.finish(again, LARGE)
    assert not await filing.finish(again, LARGE)  # tried again: nobody was told of the first
    assert await filing.result(job.id) == LARGE.result


async def test_files_that_nobody_noted_are_deleted_at_the_start(filing, tmp_path: Path):
    job, other = await filing.begun(), await filing.begun()
    await filing.finish(job, LARGE)
    ResultFiles(tmp_path / "results").write(other.id, other.fence, b"lost")
    assert await filing.delete_strays() == 1
    assert await filing.result(job.id) == LARGE.result


async def test_a_damaged_file_is_noticed_and_a_missing_one_said(filing, tmp_path: Path):
    job = await filing.begun()
    await filing.finish(job, LARGE)
    (path,) = (tmp_path / "results").iterdir()
    path.write_bytes(b"y" * (FILE_ABOVE_BYTES + 1))
    with pytest.raises(InvariantBroken, match="damaged"):
        await filing.result(job.id)
    path.unlink()
    with pytest.raises(StorageUnavailable):
        await filing.result(job.id)


async def test_a_result_that_cannot_be_written_leaves_its_job_running(filing, tmp_path: Path):
    (tmp_path / "results").write_text("in the way")
    job = await filing.begun()
    with pytest.raises(StorageUnavailable):
        await filing.finish(job, LARGE)
    assert await filing.state(job.id) is JobState.RUNNING


# --- Once, pages, figures ------------------------------------------------------------------------


def once(digest: bytes = b"same", caller: str = "me", route: str = "/jobs") -> OnceKey:
    return OnceKey(caller, route, "key", digest)


async def test_a_key_names_one_job_until_it_is_forgotten(store):
    (first,) = await store.submit([a_job()], once())
    assert await store.submit([a_job()], once()) == [first]
    with pytest.raises(IdempotencyKeyReused):
        await store.submit([a_job()], once(b"other"))
    for key in (once(caller="you"), once(route="/infer")):
        assert await store.submit([a_job()], key) != [first]
    store.time.now += LIMITS.once_s
    assert await store.submit([a_job()], once()) != [first]


async def test_a_key_that_comes_twice_at_the_same_time_makes_one_job(store, database):
    other = SqlJobStore(database, LIMITS, clock=store.time)
    answers = await asyncio.gather(
        *(each.submit([a_job()], once()) for each in (store, other) for _ in range(10))
    )
    assert len({job_id for (job_id,) in answers}) == 1


async def test_pages_go_back_in_time_and_filter(store):
    ids = [(await store.add(model="a" if n % 2 else "b"))[0] for n in range(6)]
    ids.sort(reverse=True)
    await store.add(caller="you")
    first = await store.page(Page("me", 4))
    assert [view.id for view in first] == ids[:4]
    assert [view.id for view in await store.page(Page("me", 4, before=ids[3]))] == ids[4:]
    assert {view.model for view in await store.page(Page("me", 10, model="a"))} == {"a"}

    await store.delay((await store.take())[0], 10.0, AWAY)
    queued = await store.page(Page("me", 10, state=JobState.QUEUED))
    assert len(queued) == 6  # the delayed one is among them
    assert await store.page(Page("me", 10, state=JobState.FAILED)) == []


async def test_depth_by_class(store):
    await store.add(3)
    store.time.now += 7
    await store.add(2, priority=Priority.BATCH)
    await store.take()
    depth = await store.depth()
    assert depth.waiting == {Priority.NORMAL: 2, Priority.BATCH: 2}
    assert depth.oldest_s == {Priority.NORMAL: 7.0, Priority.BATCH: 0.0}
    assert depth.running == 1


async def test_the_stores_own_clock_runs(database):
    store = SqlJobStore(database, LIMITS)
    (job_id,) = await store.submit([a_job(timeout_s=60.0)])
    (job,) = await store.claim(OWNER, 1, LEASE_S)
    assert job.id == job_id and 0 < job.left_s <= 60
