"""A text between its worker and its reader."""

import asyncio
from contextlib import aclosing

import pytest

from app.core.errors import InputTooLong, Overloaded, WorkerLost
from app.core.types import Answer, Done, Failed, Piece, Timings, Usage
from app.services.inference_service import InferenceRequest, InferenceResult
from app.services.streaming import MOST_HELD_BYTES, PieceBuffer
from tests.fakes import settle_tasks
from tests.unit.services.test_inference_service import Bench

ASKED = InferenceRequest("Once", "generator")


def says(value, tokens=3):
    return Done(Answer(value, {"finish_reason": "stop"}, Usage(1, tokens)), Timings(1.0, 2.0))


def counted(bench: Bench, code: str) -> float | None:
    labels = {"model": "generator", "version": "v1", "code": code}
    return bench.metrics.registry.get_sample_value("inference_requests_total", labels)


class Reader:
    """Reads a stream in a task of its own, as fast as it comes."""

    def __init__(self, bench: Bench, *requests: InferenceRequest) -> None:
        self.got: list[Piece | InferenceResult] = []
        self.task = asyncio.create_task(self._read(bench.service.stream(requests or (ASKED,))))

    async def _read(self, stream) -> None:
        async with aclosing(stream):
            async for each in stream:
                self.got.append(each)

    async def pieces(self) -> list[Piece]:
        await settle_tasks()
        return [each for each in self.got if isinstance(each, Piece)]

    @property
    def last(self) -> InferenceResult:
        assert isinstance(self.got[-1], InferenceResult), self.got
        return self.got[-1]


@pytest.fixture
def bench():
    return Bench()


async def test_pieces_come_as_they_are_told_and_the_result_comes_last(bench):
    reader = Reader(bench)
    await settle_tasks()
    bench.smollm.pieces[0](Piece("upon", 1))
    assert await reader.pieces() == [Piece("upon", 1)]
    bench.smollm.pieces[0](Piece(" a", 2))
    bench.clock.move(0.5)
    bench.smollm.waits[0].set_result(says("upon a"))
    await reader.task

    assert reader.got[:-1] == [Piece("upon", 1), Piece(" a", 2)]
    assert reader.last.outcome == says("upon a")
    assert (reader.last.model_used, reader.last.latency_ms) == ("generator:v1", 500.0)
    assert counted(bench, "ok") == 1


async def test_what_was_told_before_it_was_read_is_one_piece(bench):
    reader = Reader(bench)
    await settle_tasks()
    for text in ("a", "b", "c"):
        bench.smollm.pieces[0](Piece(text, 1))
    bench.smollm.waits[0].set_result(says("abc"))
    await reader.task

    assert reader.got[:-1] == [Piece("abc", 3)]


@pytest.mark.parametrize(
    ("value", "pieces"),
    [
        ("All of it.", [Piece("All of it.", 3)]),
        (["one", "two"], [Piece("one", 0, 0), Piece("two", 3, 1)]),
        ([0.5, 0.5], []),
    ],
)
async def test_text_that_was_not_written_in_pieces_is_one_and_other_values_are_none(
    bench, value, pieces
):
    reader = Reader(bench)
    await settle_tasks()
    bench.smollm.waits[0].set_result(says(value))
    await reader.task

    assert reader.got[:-1] == pieces and reader.last.outcome == says(value)


async def test_a_result_comes_when_its_text_has_ended_and_not_with_the_last(bench):
    reader = Reader(bench, ASKED, ASKED)
    await settle_tasks()
    first, second = bench.smollm.pieces
    first(Piece("upon", 1))
    second(Piece("a", 1))
    bench.smollm.waits[1].set_result(says("a"))
    await settle_tasks()
    assert [(each.request, type(each)) for each in reader.got] == [
        (0, Piece),
        (1, Piece),
        (1, InferenceResult),
    ]
    first(Piece(" a", 1))
    bench.smollm.waits[0].set_result(says("upon a"))
    await reader.task

    assert reader.got[3] == Piece(" a", 1)
    assert reader.last.outcome == says("upon a") and reader.last.request == 0


async def test_failure_is_the_last_result_behind_those_that_came(bench):
    reader = Reader(bench, ASKED, ASKED)
    await settle_tasks()
    bench.smollm.waits[1].set_result(says("a"))
    await settle_tasks()
    bench.smollm.waits[0].set_result(Failed(WorkerLost("gone")))
    await reader.task

    piece, result, failed = reader.got
    assert piece == Piece("a", 3, request=1) and isinstance(result, InferenceResult)
    assert result.outcome == says("a")
    assert failed == reader.last and isinstance(reader.last.outcome, Failed)


async def test_refusal_is_raised_and_counted_once(bench):
    bench.smollm.refusal = Overloaded("full")
    with pytest.raises(Overloaded):
        await anext(bench.service.stream([ASKED]))

    assert counted(bench, "overloaded") == 1


async def test_failure_before_the_first_piece_is_raised(bench):
    reader = Reader(bench)
    await settle_tasks()
    bench.smollm.waits[0].set_result(Failed(InputTooLong("too long")))
    with pytest.raises(InputTooLong):
        await reader.task

    assert counted(bench, "input_too_long") == 1


async def test_failure_after_the_first_piece_is_the_result(bench):
    reader = Reader(bench)
    await settle_tasks()
    bench.smollm.pieces[0](Piece("upon", 1))
    bench.smollm.waits[0].set_result(Failed(WorkerLost("gone")))
    await reader.task

    assert reader.got[0] == Piece("upon", 1)
    assert isinstance(reader.last.outcome, Failed) and str(reader.last.outcome.error) == "gone"


async def test_leaving_withdraws_the_input(bench):
    stream = bench.service.stream([ASKED])
    first = asyncio.create_task(anext(stream))
    await settle_tasks()
    bench.smollm.pieces[0](Piece("upon", 1))
    await first
    await stream.aclose()

    assert bench.smollm.waits[0].cancelled()
    await settle_tasks()
    assert counted(bench, "cancelled") == 1


async def test_leaving_while_nothing_came_withdraws_the_input(bench):
    reader = Reader(bench)
    await settle_tasks()
    reader.task.cancel()
    await settle_tasks()

    assert bench.smollm.waits[0].cancelled()


async def test_stream_that_nobody_reads_is_broken_off_with_what_fits(bench):
    stream = bench.service.stream([ASKED])
    first = asyncio.create_task(anext(stream))
    await settle_tasks()
    tell = bench.smollm.pieces[0]
    tell(Piece("a", 1))
    await first
    text = "x" * 1000
    while not bench.smollm.waits[0].cancelled():
        tell(Piece(text, 1))
    tell(Piece("late", 1))
    piece, result = [each async for each in stream]

    assert isinstance(piece, Piece) and len(piece.text) in range(MOST_HELD_BYTES - 1000, 2**16 + 1)
    assert isinstance(result, InferenceResult) and isinstance(result.outcome, Failed)
    assert "was not read" in str(result.outcome.error)


async def test_equal_streams_are_not_shared_and_not_kept():
    bench = Bench(cache_bytes=10**6, cache=True)
    asked = InferenceRequest("Once", "generator", parameters={"temperature": 0})
    readers = [Reader(bench, asked), Reader(bench, asked)]
    await settle_tasks()
    for wait in bench.smollm.waits:
        wait.set_result(says("upon"))
    await asyncio.gather(*(reader.task for reader in readers))

    assert len(bench.smollm.submitted) == 2


def test_a_piece_that_is_too_large_by_itself_has_no_room_even_where_nothing_waits():
    buffer = PieceBuffer()
    assert not buffer.put(Piece("x" * (MOST_HELD_BYTES + 1), 1))
    assert buffer.put(Piece("x" * MOST_HELD_BYTES, 1))


def test_buffer_counts_bytes_and_not_characters():
    buffer = PieceBuffer()

    assert buffer.put(Piece("é" * (MOST_HELD_BYTES // 2), 1))
    assert buffer.held_bytes == MOST_HELD_BYTES
    assert not buffer.put(Piece("x", 1))
