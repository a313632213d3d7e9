"""What the store of files and batches promises, on both databases."""

from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.batches.sql import SqlBatchStore
from app.batches.status import (
    Batch,
    BatchStatus,
    Counts,
    Problem,
    Purpose,
    StoredFile,
    new_file_id,
)
from app.batches.store import Page
from app.batches.tables import METADATA
from app.core.errors import BatchNotFound, CallerFilesFull, FileInUse, NotCancellable

NOW, PLACE = 1_000_000.0, "here"
NO_FILE = new_file_id()


def a_file(**fields: Any) -> StoredFile:
    usual = StoredFile(
        new_file_id(), "me", Purpose.BATCH, "in.jsonl", 7, b"\x00" * 32, NOW, NOW + 100, PLACE
    )
    return replace(usual, **fields)


def a_batch(input_file_id: str = NO_FILE, **fields: Any) -> Batch:
    usual = Batch("me", "/v1/embeddings", input_file_id, "24h", 50.0, NOW, NOW + 1000, PLACE)
    return replace(usual, **fields)


@pytest_asyncio.fixture
async def store(database):
    return SqlBatchStore(database)


async def added(store: SqlBatchStore, *batches: Batch) -> None:
    for batch in batches:
        await store.add(batch)


async def begun(store: SqlBatchStore, **fields: Any) -> Batch:
    batch = a_batch(**fields)
    await store.add(batch)
    assert await store.begin(batch.id, 10, NOW + 1)
    return batch


async def status(store: SqlBatchStore, batch: Batch) -> BatchStatus:
    found = await store.reread(batch.id)
    assert found is not None
    return found.status


def test_the_migrated_schema_is_that_of_the_tables(engines):
    ours = set(METADATA.tables)

    def is_ours(thing, name, kind, reflected, other):
        return kind != "table" or name in ours

    with engines.writing() as connection:
        options = {"compare_type": True, "include_object": is_ours}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, METADATA) == []


async def test_a_file_comes_back_as_it_was_kept(store):
    file = a_file(filename="ä\u2028'.jsonl", size=2**40)
    await store.add_file(file)
    assert await store.file("me", file.id, NOW) == file
    assert await store.file("you", file.id, NOW) is None
    assert await store.file("me", file.id, NOW + 100) is None, "expired"


async def test_files_are_listed_in_pages_both_ways(store):
    files = [a_file(), a_file(purpose=Purpose.OUTPUT), a_file(), a_file(expires_at=NOW)]
    files.sort(key=lambda file: file.id)
    for file in (*files, a_file(caller="you")):
        await store.add_file(file)
    alive = [file for file in files if file.expires_at > NOW]

    latest = await store.files(Page("me", 2), NOW)
    assert latest == alive[::-1][:2]
    assert await store.files(Page("me", 2, latest[-1].id), NOW) == alive[:1]
    assert await store.files(Page("me", 9, is_ascending=True), NOW) == alive
    outputs = await store.files(Page("me", 9, purpose="batch_output"), NOW)
    assert [file.purpose for file in outputs] == [Purpose.OUTPUT]


async def test_a_file_is_deleted_unless_an_open_batch_reads_it(store):
    file = a_file()
    await store.add_file(file)
    assert await store.delete_file("you", file.id, NOW) is None
    batch = await begun(store, input_file_id=file.id)
    with pytest.raises(FileInUse):
        await store.delete_file("me", file.id, NOW)
    assert await store.delete_expired(NOW + 200) == []

    await store.end(batch.id, BatchStatus.CANCELLED, (), NOW + 2)
    assert await store.delete_file("me", file.id, NOW) == file
    assert await store.delete_file("me", file.id, NOW) is None


async def test_what_was_kept_long_enough_is_deleted(store):
    old, young = a_file(), a_file(expires_at=NOW + 500)
    for file in (old, young):
        await store.add_file(file)
    ended, still = await begun(store), await begun(store)
    await store.end(ended.id, BatchStatus.COMPLETED, (), NOW + 60)
    assert await store.delete_expired(NOW + 105) == [old]
    assert await store.reread(ended.id) is not None, "kept for 50 s after its end"
    assert await store.delete_expired(NOW + 110) == []
    assert await store.reread(ended.id) is None
    assert await store.reread(still.id) is not None
    assert await store.known([old.id, young.id]) == {young.id}


async def test_a_batch_comes_back_as_it_was_kept(store):
    batch = a_batch(metadata={"näme": "wert"})
    await store.add(batch)
    assert await store.get("me", batch.id) == batch
    assert await store.get("you", batch.id) is None
    assert await store.open_in(PLACE) == [batch]
    assert await store.open_in("elsewhere") == []


async def test_batches_are_listed_in_pages(store):
    batches = sorted((a_batch() for _ in range(3)), key=lambda batch: batch.id, reverse=True)
    await added(store, *batches, a_batch(caller="you"))
    assert await store.page(Page("me", 2)) == batches[:2]
    assert await store.page(Page("me", 2, batches[1].id)) == batches[2:]


async def test_a_batch_runs_to_its_end(store):
    batch = await begun(store)
    assert not await store.begin(batch.id, 99, NOW + 9), "it has begun"
    assert await store.note_counts(batch.id, Counts(10, 4, 1)) is BatchStatus.IN_PROGRESS
    over = await store.conclude(batch.id, Counts(10, 9, 1), is_whole=True, now=NOW + 2)
    assert (over.status, over.counts) == (BatchStatus.FINALIZING, Counts(10, 9, 1))
    again = await store.conclude(batch.id, Counts(10, 9, 1), is_whole=True, now=NOW + 3)
    assert (again.output_id, again.error_id) == (over.output_id, over.error_id)
    assert over.output_id is not None
    assert await store.known([over.output_id, NO_FILE]) == {over.output_id}

    output = a_file(id=over.output_id, purpose=Purpose.OUTPUT)
    await store.end(batch.id, BatchStatus.COMPLETED, [output], NOW + 4)
    ended = await store.get("me", batch.id)
    assert (ended.status, ended.output_id, ended.error_id) == ("completed", output.id, None)
    assert (ended.in_progress_at, ended.finalizing_at, ended.ended_at) == (
        NOW + 1,
        NOW + 2,
        NOW + 4,
    )
    assert await store.file("me", output.id, NOW) == output
    assert await store.open_in(PLACE) == []

    await store.end(batch.id, BatchStatus.EXPIRED, [output], NOW + 5)
    assert await store.get("me", batch.id) == ended, "it has ended once"
    assert await store.note_counts(batch.id, Counts()) is None


async def test_a_batch_fails_with_its_problems(store):
    batch = a_batch()
    await store.add(batch)
    problems = (Problem("invalid_json_line", "not valid JSON: x", 17), Problem("empty_file", "y"))
    assert await store.fail(batch.id, problems, NOW + 1)
    failed = await store.get("me", batch.id)
    assert (failed.status, failed.problems, failed.ended_at) == ("failed", problems, NOW + 1)
    assert not await store.fail(batch.id, problems, NOW + 2)


async def test_a_batch_is_cancelled_while_it_can_be(store):
    waits, runs = a_batch(), await begun(store)
    await store.add(waits)
    assert await store.cancel("you", waits.id, NOW) is None
    for batch in (waits, runs):
        cancelled = await store.cancel("me", batch.id, NOW + 2)
        assert (cancelled.status, cancelled.cancelling_at) == ("cancelling", NOW + 2)
        assert await store.cancel("me", batch.id, NOW + 3) == cancelled
    assert not await store.begin(waits.id, 10, NOW)
    assert await store.note_counts(runs.id, Counts(10, 1, 0)) is BatchStatus.CANCELLING
    over = await store.conclude(runs.id, Counts(10, 1, 0), is_whole=True, now=NOW + 3)
    assert over.status is BatchStatus.CANCELLING
    await store.end(runs.id, BatchStatus.CANCELLED, (), NOW + 4)
    with pytest.raises(NotCancellable, match="cancelled"):
        await store.cancel("me", runs.id, NOW + 5)


async def test_a_batch_that_is_gone_cannot_be_concluded(store):
    with pytest.raises(BatchNotFound):
        await store.conclude("batch_gone", Counts(), is_whole=True, now=NOW)


async def test_figures_are_those_of_all_callers_and_of_open_batches_alone(store):
    assert (await store.figures(NOW)).oldest_s == 0
    for file in (a_file(size=5), a_file(size=2**40, caller="you"), a_file(purpose=Purpose.OUTPUT)):
        await store.add_file(file)
    await added(store, a_batch(created_at=NOW - 60), a_batch(caller="you"))
    ended = await begun(store, created_at=NOW - 100)
    await store.end(ended.id, BatchStatus.CANCELLED, (), NOW)
    await begun(store)
    found = await store.figures(NOW)
    assert found.files == {Purpose.BATCH: (2, 2**40 + 5), Purpose.OUTPUT: (1, 7)}
    assert found.oldest_s == 60
    assert found.open == {
        BatchStatus.VALIDATING: 2,
        BatchStatus.IN_PROGRESS: 1,
        BatchStatus.FINALIZING: 0,
        BatchStatus.CANCELLING: 0,
    }


async def test_bytes_of_a_caller_are_those_of_his_files_that_have_not_expired(store):
    files = a_file(size=5), a_file(size=7, purpose=Purpose.OUTPUT), a_file(size=9, caller="you")
    for file in (*files, a_file(size=11, expires_at=NOW)):
        await store.add_file(file)
    assert await store.caller_bytes("me", NOW) == 12
    assert await store.caller_bytes("nobody", NOW) == 0
    with pytest.raises(CallerFilesFull, match="12 bytes; with these 9 .* the 20 that"):
        await store.add_file(a_file(size=9), 20)
    assert await store.caller_bytes("me", NOW) == 12
    await store.add_file(a_file(size=8), 20)
    assert await store.caller_bytes("me", NOW) == 20
