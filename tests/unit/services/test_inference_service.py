"""One request, from plain inputs to outcomes."""

import asyncio

import pytest

from app.core.errors import InputTooLong, InvalidRequest, ModelNotFound, Overloaded
from app.core.metrics import Metrics
from app.core.types import NOBODY, Answer, Asker, Done, Failed, Outcome, Priority, Timings, Usage
from app.models.registry import Registry
from app.services.inference_service import InferenceRequest, InferenceService
from app.services.response_cache import ResponseCache
from app.workers.status import ServingState, Status
from tests.fakes import AnswersWhenTold, FakeClock, a_deployment, a_spec, settle_tasks


class Bench:
    """The service over two models whose answers a test gives."""

    def __init__(self, cache_bytes: int = 0, **fields) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics()
        self.minilm, self.smollm = AnswersWhenTold("minilm"), AnswersWhenTold("smollm")
        deployments = [
            a_deployment(
                a_spec("sentiment:v1", "classify", default_timeout_ms=500, **fields), self.minilm
            ),
            a_deployment(a_spec("generator:v1", "generate", **fields), self.smollm),
            a_deployment(a_spec("iris:v1", "tensors"), self.minilm),
        ]
        for deployment in deployments:
            spec = deployment.spec
            self.metrics.add_version(spec.name, spec.version, "worker")
        self.service = InferenceService(
            Registry(deployments),
            self.metrics,
            self.clock,
            default_model="sentiment",
            max_text_chars=100,
            cache=ResponseCache(cache_bytes, self.metrics.cache_changed) if cache_bytes else None,
        )

    async def begin(
        self,
        *requests: InferenceRequest,
        timeout_ms: float | None = None,
        asker: Asker = NOBODY,
    ):
        """The call, waiting for its answers."""
        infer = self.service.infer(requests, timeout_ms=timeout_ms, asker=asker)
        call = asyncio.create_task(infer)
        await settle_tasks()
        return call

    async def refusal(self, request: InferenceRequest) -> str:
        (result,) = await self.service.infer([request])
        assert isinstance(result.outcome, Failed)
        return f"{result.outcome.error.code}: {result.outcome.error}"

    def of(self, key: str):
        return self.metrics.summary()["models"][key]


@pytest.fixture
def bench():
    return Bench()


def says(value: str) -> Outcome:
    return Done(Answer(value, usage=Usage(3, 1)), Timings(1.0, 2.0))


async def test_who_asks_is_told_to_the_worker(bench):
    asker = Asker("shop-7", Priority.BATCH)
    call = asyncio.create_task(bench.service.infer([InferenceRequest("a")], asker=asker))
    await settle_tasks()

    assert bench.minilm.askers == [asker]
    bench.minilm.waits[0].set_result(says("b"))
    await call


async def test_a_request_without_a_model_goes_to_the_default_one_with_default_parameters(bench):
    call = await bench.begin(InferenceRequest("fine"))
    assert bench.minilm.submitted == [
        ("sentiment:v1", "fine", {"truncate": False, "top_k": None}, 500.0)
    ]

    bench.minilm.waits[0].set_result(says("positive"))
    (result,) = await call
    assert result.outcome == says("positive")
    assert (result.model_used, result.model_type) == ("sentiment:v1", "classifier")


async def test_results_come_in_the_order_of_the_inputs_whatever_the_order_of_answers(bench):
    texts = ["a", "b", "c"]
    call = await bench.begin(*(InferenceRequest(text) for text in texts))
    for at in (2, 0, 1):
        bench.minilm.waits[at].set_result(says(texts[at]))

    assert [result.outcome for result in await call] == [says(text) for text in texts]


async def test_each_input_reports_its_own_time_and_not_that_of_the_slowest(bench):
    """A label in a batch with a generated text once claimed the text's seconds."""
    call = await bench.begin(InferenceRequest("a"), InferenceRequest("b", "generator"))
    bench.clock.tick(0.010)
    bench.minilm.waits[0].set_result(says("a"))
    await settle_tasks()
    bench.clock.tick(2.0)
    bench.smollm.waits[0].set_result(says("b"))

    quick, slow = await call
    assert quick.latency_ms == pytest.approx(10.0)
    assert slow.latency_ms == pytest.approx(2010.0)
    assert bench.of("sentiment:v1")["average_latency_ms"] == pytest.approx(10.0)


async def test_one_bad_input_fails_alone(bench):
    requests = [
        InferenceRequest("a"),
        InferenceRequest("b", "missing"),
        InferenceRequest("c", parameters={"volume": 11}),
        InferenceRequest("d" * 101),
        InferenceRequest("e"),
    ]
    call = await bench.begin(*requests)
    bench.minilm.waits[0].set_result(says("a"))
    bench.minilm.waits[1].set_result(Failed(InputTooLong()))
    codes = [
        result.outcome.error.code if isinstance(result.outcome, Failed) else "ok"
        for result in await call
    ]

    assert codes == [
        "ok",
        "model_not_found",
        "invalid_request",
        "invalid_request",
        "input_too_long",
    ]


async def test_a_refusal_names_what_is_wrong(bench):
    assert "volume is unknown" in await bench.refusal(
        InferenceRequest("a", parameters={"volume": 1})
    )
    assert "101 characters, at most 100" in await bench.refusal(InferenceRequest("x" * 101))
    assert "versions: v1" in await bench.refusal(InferenceRequest("a", version="v9"))


async def test_a_result_without_a_version_names_none(bench):
    (result,) = await bench.service.infer([InferenceRequest("a", "missing")])

    assert (result.model_used, result.model_type) == (None, None)


async def test_an_input_that_a_version_refuses_names_the_version(bench):
    (result,) = await bench.service.infer([InferenceRequest("x" * 101)])

    assert (result.model_used, result.model_type) == ("sentiment:v1", "classifier")


@pytest.mark.parametrize(
    ("asked", "given"), [(None, 500.0), (200.0, 200.0), (9999.0, 500.0)], ids=str
)
async def test_a_caller_may_shorten_the_models_limit_and_not_lengthen_it(bench, asked, given):
    call = await bench.begin(InferenceRequest("a"), timeout_ms=asked)
    bench.minilm.waits[0].set_result(says("a"))
    await call

    assert bench.minilm.submitted[0][3] == given


async def test_a_patient_caller_may_wait_longer_than_the_models_limit(bench):
    patient = Asker("job", is_patient=True)
    call = await bench.begin(InferenceRequest("a"), timeout_ms=9999.0, asker=patient)
    bench.minilm.waits[0].set_result(says("a"))
    await call

    assert bench.minilm.submitted[0][3] == 9999.0


async def test_a_request_is_checked_without_being_run_and_whatever_its_model_does(bench):
    bench.minilm.status = Status(ServingState.UNLOADED)
    bench.service.stop()

    assert bench.service.check(InferenceRequest("a")) == "sentiment"
    with pytest.raises(ModelNotFound):
        bench.service.check(InferenceRequest("a", "missing"))
    for wrong in (InferenceRequest("a" * 101), InferenceRequest("a", parameters={"volume": 11})):
        with pytest.raises(InvalidRequest):
            bench.service.check(wrong)
    assert bench.minilm.submitted == []


async def test_a_caller_who_leaves_withdraws_every_input_that_is_not_answered(bench):
    call = await bench.begin(InferenceRequest("a"), InferenceRequest("b"))
    bench.minilm.waits[0].set_result(says("a"))
    await settle_tasks()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)

    assert not bench.minilm.waits[0].cancelled()
    assert bench.minilm.waits[1].cancelled()
    assert bench.of("sentiment:v1")["successes"] == 1


async def test_a_full_queue_refuses_at_once_with_when_to_come_back(bench):
    bench.minilm.refusal = Overloaded("full", retry_after_s=7.0)
    (result,) = await bench.service.infer([InferenceRequest("a")])

    assert isinstance(result.outcome, Failed)
    assert result.outcome.error.retry_after_s == 7.0


async def test_a_server_that_stops_takes_nothing_new_and_finishes_what_it_took(bench):
    call = await bench.begin(InferenceRequest("a"))
    bench.service.stop()

    assert (await bench.refusal(InferenceRequest("b"))).startswith("model_unavailable: the server")
    bench.minilm.waits[0].set_result(says("a"))
    (result,) = await call
    assert result.outcome == says("a")


async def test_every_outcome_is_counted_once_where_it_belongs(bench):
    call = await bench.begin(InferenceRequest("a"), InferenceRequest("b"))
    bench.minilm.waits[0].set_result(says("a"))
    bench.minilm.waits[1].set_result(Failed(InputTooLong()))
    await call
    await bench.refusal(InferenceRequest("x" * 101))
    await bench.refusal(InferenceRequest("a", "missing"))

    summary = bench.of("sentiment:v1")
    assert (summary["requests"], summary["successes"]) == (3, 1)
    assert summary["failures"] == {"input_too_long": 1, "invalid_request": 1}
    assert (summary["tokens_in"], summary["tokens_out"]) == (3, 1)
    assert bench.metrics.summary()["rejected"] == {"model_not_found": 1}


async def test_no_inputs_are_no_results(bench):
    assert await bench.service.infer([]) == []


async def test_tensors_reach_the_worker_of_a_version_that_takes_them(bench):
    inputs = {"x": [[1.5]]}
    call = await bench.begin(InferenceRequest("", "iris", inputs=inputs))
    bench.minilm.waits[0].set_result(says("done"))
    (result,) = await call

    assert bench.minilm.inputs == [inputs]
    assert result.model_type == "tensors"


async def test_text_for_tensors_and_tensors_for_text_are_refused_with_what_is_taken(bench):
    assert await bench.refusal(InferenceRequest("a", "iris")) == (
        "invalid_request: text is not what iris:v1 takes; send inputs: named tensors; /models "
        "shows their types and shapes"
    )
    assert await bench.refusal(InferenceRequest("", inputs={"x": [1]})) == (
        "invalid_request: inputs is not what sentiment:v1 takes; send text"
    )


async def test_a_conversation_goes_to_a_task_that_takes_it(bench):
    talk = {"messages": [{"role": "user", "content": "a"}]}
    call = await bench.begin(InferenceRequest("", "generator", inputs=talk))
    bench.smollm.waits[0].set_result(says("b"))
    await call
    assert bench.smollm.inputs == [talk]


async def test_a_conversation_that_is_too_long_is_refused(bench):
    parts = [{"type": "text", "text": "a" * 49}, {"type": "text", "text": "a" * 49}]
    talk = {"messages": [{"role": "user", "content": parts}]}
    told = await bench.refusal(InferenceRequest("", "generator", inputs=talk))
    assert told.startswith("invalid_request: inputs.messages has 110 characters, at most 100")


async def test_equal_inputs_in_flight_are_computed_once_and_take_one_permit(bench):
    first = await bench.begin(InferenceRequest("a"))
    second = await bench.begin(InferenceRequest("a"), InferenceRequest("b"))
    assert [text for _, text, _, _ in bench.minilm.submitted] == ["a", "b"]

    for wait, value in zip(bench.minilm.waits, ("good", "bad"), strict=True):
        wait.set_result(says(value))
    values = [result.outcome.answer.value for result in await first + await second]
    assert values == ["good", "good", "bad"]
    assert bench.of("sentiment:v1")["shared"] == 1


async def test_equal_inputs_of_those_who_take_turns_apart_are_computed_apart(bench):
    """Else a single text would wait where an equal one stands among another's ten thousand."""
    askers = [Asker("a", Priority.BATCH), Asker("b", Priority.BATCH), Asker("a", Priority.NORMAL)]
    for asker in askers:
        await bench.begin(InferenceRequest("a"), asker=asker)

    assert len(bench.minilm.submitted) == 3
    assert bench.of("sentiment:v1")["shared"] == 0


@pytest.mark.parametrize(
    "other",
    [
        {"parameters": {"top_k": 1}},
        {"text": "A"},
        {"version": "v2"},
    ],
    ids=str,
)
async def test_inputs_that_differ_in_anything_are_computed_apart(other):
    bench = Bench()
    await bench.begin(InferenceRequest("a"), InferenceRequest(**{"text": "a", **other}))

    assert bench.of("sentiment:v1")["shared"] == 0


async def test_equal_tensors_in_flight_are_computed_once(bench):
    await bench.begin(*(InferenceRequest("", "iris", inputs={"x": [1.5]}) for _ in range(2)))

    assert bench.minilm.inputs == [{"x": [1.5]}]


async def test_a_caller_who_leaves_takes_nothing_from_the_one_who_waits_for_the_same(bench):
    first = await bench.begin(InferenceRequest("a"))
    second = await bench.begin(InferenceRequest("a"))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    bench.minilm.waits[0].set_result(says("good"))

    (result,) = await second
    assert result.outcome.answer.value == "good"


GREEDY = {"temperature": 0}


@pytest.mark.parametrize(
    ("parameters", "options", "computed"),
    [
        ({}, {}, 2),
        ({"seed": 1}, {}, 2),
        ({"temperature": 0.5, "seed": 1}, {}, 2),
        ({}, {"generation": {"do_sample": False}}, 1),
        (GREEDY, {}, 1),
        ({"num_beams": 4}, {}, 1),
        (GREEDY, None, 2),
    ],
    ids=["usual", "seed", "sampled", "checkpoint-greedy", "greedy", "beams", "not-known-yet"],
)
async def test_what_is_drawn_at_random_is_computed_for_each(parameters, options, computed):
    bench = Bench(10**6, cache=True)
    if options is not None:
        bench.smollm.task_options["generator:v1"] = options
    request = InferenceRequest("a", "generator", parameters=parameters)
    calls = [await bench.begin(request) for _ in range(2)]
    assert len(bench.smollm.submitted) == computed
    for wait in bench.smollm.waits:
        wait.set_result(says("text"))
    await asyncio.gather(*calls)

    await bench.begin(request)
    assert len(bench.smollm.submitted) == (1 if computed == 1 else 3)


async def test_a_kept_answer_takes_no_time_and_no_worker():
    bench = Bench(10**6, cache=True)
    call = await bench.begin(InferenceRequest("a"))
    bench.clock.tick(0.1)
    bench.minilm.waits[0].set_result(says("good"))
    (computed,) = await call
    (kept,) = await bench.service.infer([InferenceRequest("a")])

    assert kept.outcome == Done(computed.outcome.answer, Timings(0.0, 0.0), is_cached=True)
    assert not computed.outcome.is_cached
    assert (kept.latency_ms, kept.model_used) == (0.0, "sentiment:v1")
    assert len(bench.minilm.submitted) == 1
    summary = bench.of("sentiment:v1")
    assert (summary["cache_hits"], summary["cache_misses"], summary["successes"]) == (1, 1, 2)


async def test_a_kept_answer_is_given_though_the_worker_takes_nothing():
    bench = Bench(10**6, cache=True)
    call = await bench.begin(InferenceRequest("a"))
    bench.minilm.waits[0].set_result(says("good"))
    await call
    bench.minilm.refusal = Overloaded("full")

    (kept,) = await bench.service.infer([InferenceRequest("a")])
    assert isinstance(kept.outcome, Done)


async def test_a_kept_answer_is_not_given_by_a_version_that_is_unloaded():
    bench = Bench(10**6, cache=True)
    call = await bench.begin(InferenceRequest("a"))
    bench.minilm.waits[0].set_result(says("good"))
    await call
    bench.minilm.status = Status(ServingState.UNLOADED)

    assert await bench.refusal(InferenceRequest("a")) == "model_unavailable: closed"


async def test_an_error_is_never_kept():
    bench = Bench(10**6, cache=True)
    for _ in range(2):
        call = await bench.begin(InferenceRequest("a"))
        bench.minilm.waits[-1].set_result(Failed(InputTooLong()))
        await call

    assert len(bench.minilm.submitted) == 2


@pytest.mark.parametrize(
    ("cache_bytes", "cache"), [(0, True), (10**6, False)], ids=["server-off", "version-off"]
)
async def test_nothing_is_kept_unless_server_and_version_both_say_so(cache_bytes, cache):
    bench = Bench(cache_bytes, cache=cache)
    for _ in range(2):
        call = await bench.begin(InferenceRequest("a"))
        bench.minilm.waits[-1].set_result(says("good"))
        await call

    assert len(bench.minilm.submitted) == 2
    assert bench.of("sentiment:v1")["cache_misses"] == 0
