"""What a call is charged for is what its caller was told."""

import asyncio
from dataclasses import replace

import pytest

from app.core.errors import (
    Cancelled,
    DeadlineExceeded,
    ModelUnavailable,
    Overloaded,
    ServingError,
    WorkerLost,
)
from app.core.price import Price
from app.core.types import Answer, Asker, Done, Failed, Piece, Timings, Usage
from app.models.registry import Registry
from app.services.inference_service import InferenceRequest, InferenceService
from app.services.metering import Use
from app.services.streaming import MOST_HELD_BYTES
from tests.fakes import AnswersWhenTold, FakeClock, a_deployment, a_spec, settle_tasks
from app.core.metrics import Metrics

ASKER = Asker("key_1", key="key_1")
PRICE = Price(
    input_tokens=2_000_000_000, output_tokens=10_000_000_000, request=1000, compute_hour=36 * 10**8
)
SAD, GLAD, STORY = (
    InferenceRequest("sad", "sentiment"),
    InferenceRequest("glad", "sentiment"),
    InferenceRequest("once", "generator"),
)


class Uses:
    def __init__(self) -> None:
        self.told: list[tuple[str, str, str, Use]] = []

    def add(self, key: str, model: str, version: str, use: Use) -> None:
        self.told.append((key, model, version, use))

    @property
    def only(self) -> Use:
        ((key, _, version, use),) = self.told
        assert (key, version) == ("key_1", "v1")
        return use


class Bench:
    def __init__(self) -> None:
        self.uses = Uses()
        self.worker = AnswersWhenTold("worker")
        specs = (
            replace(a_spec("sentiment:v1", "classify"), price=PRICE),
            a_spec("generator:v1", "generate"),
        )
        metrics = Metrics()
        for spec in specs:
            metrics.add_version(spec.name, spec.version, "worker")
        self.service = InferenceService(
            Registry([a_deployment(spec, self.worker) for spec in specs]),
            metrics,
            FakeClock(),
            default_model="sentiment",
            max_text_chars=100,
            meter=self.uses,
        )

    async def begin(self, *requests: InferenceRequest, is_whole: bool = False):
        infer = self.service.infer(requests, asker=ASKER, is_whole=is_whole)
        call = asyncio.create_task(infer)
        await settle_tasks()
        return call

    async def answer(self, *outcomes) -> None:
        for submitted, outcome in zip(list(self.worker.waits), outcomes, strict=False):
            submitted.set_result(outcome)
        await settle_tasks()


@pytest.fixture
def bench():
    return Bench()


def done(read: int, written: int = 0, **more) -> Done:
    return Done(Answer("x", usage=Usage(read, written)), Timings(1.0, 2.5), **more)


async def test_an_answer_is_charged_as_its_usage_says(bench):
    call = await bench.begin(SAD)
    assert bench.uses.told == []
    await bench.answer(done(3, 1))
    await call
    cost = 1000 + (3 * 2_000_000_000 + 10_000_000_000) // 10**6 + 2500
    assert bench.uses.only == Use(1, 1, 0, 0, 3, 1, 2.5, cost)


async def test_a_call_is_one_request_of_each_version_that_it_asks(bench):
    call = await bench.begin(SAD, STORY, GLAD)
    await bench.answer(done(3), done(4, 5), Failed(Overloaded()))
    await call
    assert [
        (model, use.requests, use.items, use.failures) for _, model, _, use in bench.uses.told
    ] == [
        ("sentiment", 1, 2, 1),
        ("generator", 1, 1, 0),
    ]


async def test_what_is_lost_as_a_whole_is_not_charged(bench):
    call = await bench.begin(SAD, GLAD, is_whole=True)
    await bench.answer(done(3), Failed(Overloaded()))
    await call
    use = bench.uses.only
    assert (use.items, use.failures, use.input_tokens, use.compute_ms) == (2, 2, 0, 2.5)
    assert use.cost_nanos == 2500, "the time that was computed, no request and no token"


async def test_two_equal_inputs_are_told_to_both_and_computed_once(bench):
    call = await bench.begin(SAD, SAD)
    assert len(bench.worker.waits) == 1
    await bench.answer(done(3))
    await call
    use = bench.uses.only
    assert (use.items, use.input_tokens, use.compute_ms) == (2, 6, 2.5)


async def test_who_leaves_has_used_a_request_and_no_token(bench):
    call = await bench.begin(SAD)
    call.cancel()
    await asyncio.wait([call])
    assert bench.uses.only == Use(requests=1, items=1, failures=1)


async def test_what_names_no_version_is_charged_to_none(bench):
    call = await bench.begin(InferenceRequest("x", "nope"))
    await call
    assert bench.uses.told == []


async def test_a_refusal_is_a_failure_of_its_version(bench):
    bench.worker.refusal = ModelUnavailable("loading")
    await (await bench.begin(SAD))
    assert bench.uses.only == Use(requests=1, items=1, failures=1)


async def test_a_stream_is_charged_once_as_its_result_says(bench):
    stream = bench.service.stream([STORY], asker=ASKER)
    taking = asyncio.create_task(anext(stream))
    await settle_tasks()
    bench.worker.pieces[0](Piece("a", 2))
    await taking
    bench.worker.waits[0].set_result(done(4, 2))
    rest = [each async for each in stream]
    assert len(rest) == 1
    assert bench.uses.only == Use(1, 1, 0, 0, 4, 2, 2.5)


CUT_OFF = Use(requests=1, items=1, failures=1, input_tokens=4, output_tokens=5)


async def begun_stream(bench):
    """Four tokens read and five written, of which two were told."""
    stream = bench.service.stream([STORY], asker=ASKER)
    taking = asyncio.create_task(anext(stream))
    await settle_tasks()
    bench.worker.used[0](Usage(4, 2))
    bench.worker.pieces[0](Piece("a", 2))
    await taking
    bench.worker.used[0](Usage(4, 5))
    return stream


async def test_of_a_stream_whose_client_leaves_what_was_read_and_written_counts(bench):
    stream = await begun_stream(bench)
    await stream.aclose()
    assert bench.uses.only == CUT_OFF


@pytest.mark.parametrize(
    "error",
    [
        DeadlineExceeded(),
        WorkerLost("the worker stopped while it wrote the answer"),
        ServingError(),
    ],
    ids=["deadline", "worker's death", "our fault"],
)
async def test_of_a_stream_that_fails_what_was_read_and_written_counts(bench, error):
    stream = await begun_stream(bench)
    bench.worker.waits[0].set_result(Failed(error))
    (last,) = [each async for each in stream]
    assert last.outcome.error is error
    assert bench.uses.only == CUT_OFF


async def test_of_a_stream_that_is_not_read_what_was_read_and_written_counts(bench):
    stream = await begun_stream(bench)
    bench.worker.pieces[0](Piece("x" * (MOST_HELD_BYTES + 1), 0))
    (last,) = [each async for each in stream]
    assert isinstance(last.outcome.error, Cancelled)
    assert bench.uses.only == CUT_OFF


async def test_of_a_stream_that_fails_before_its_first_piece_what_was_read_counts(bench):
    stream = bench.service.stream([STORY], asker=ASKER)
    taking = asyncio.create_task(anext(stream))
    await settle_tasks()
    bench.worker.used[0](Usage(4, 0))
    bench.worker.waits[0].set_result(Failed(DeadlineExceeded()))
    with pytest.raises(DeadlineExceeded):
        await taking
    assert bench.uses.only == Use(requests=1, items=1, failures=1, input_tokens=4)


async def test_a_stream_that_never_ran_has_used_no_token(bench):
    stream = bench.service.stream([STORY], asker=ASKER)
    taking = asyncio.create_task(anext(stream))
    await settle_tasks()
    taking.cancel()
    await asyncio.wait([taking])
    assert bench.uses.only == Use(requests=1, items=1, failures=1)


async def test_of_several_texts_streamed_together_each_counts_what_it_used(bench):
    stream = bench.service.stream([STORY, STORY], asker=ASKER)
    taking = asyncio.create_task(anext(stream))
    await settle_tasks()
    bench.worker.pieces[0](Piece("a", 1))
    await taking
    bench.worker.waits[0].set_result(done(4, 7))
    bench.worker.used[1](Usage(4, 3))
    await settle_tasks()
    await stream.aclose()
    assert bench.uses.only == Use(1, 2, 1, 0, 8, 10, 2.5)


async def test_a_cut_off_stream_costs_its_tokens_and_no_request(bench):
    stream = bench.service.stream([SAD], asker=ASKER)
    taking = asyncio.create_task(anext(stream))
    await settle_tasks()
    bench.worker.used[0](Usage(3, 1))
    bench.worker.pieces[0](Piece("a", 1))
    await taking
    await stream.aclose()
    assert bench.uses.only.cost_nanos == (3 * 2_000_000_000 + 10_000_000_000) // 10**6


@pytest.mark.parametrize("tokens", [0, 1, 7, 10**9])
def test_prices_of_many_are_the_sum_of_prices(tokens):
    price = Price(input_tokens=150_000_000)
    whole = price.of(requests=0, input_tokens=tokens, output_tokens=0, compute_ms=0.0)
    assert whole == tokens * 150
