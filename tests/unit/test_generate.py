"""The task that continues a text: what is asked of the engine, and what is made of its tokens."""

import pytest

from app.core.errors import InputTooLong, InvalidRequest
from app.core.inference import Generated
from app.core.parameters import resolve
from app.tasks.catalogue import task_info
from app.tasks.generate import Generate, GenerationPlan
from app.tasks.sampling import OWN_NEW_TOKENS
from tests.fakes import WordTokenizer

CONTEXT = 100
TOKENIZER = WordTokenizer(CONTEXT)


def words(count: int) -> str:
    return " ".join(f"w{n}" for n in range(count))


def plan_of(text: str = "one two three", **given) -> GenerationPlan:
    parameters = resolve(task_info("generate", "tokens").parameters, given)
    return Generate().prepare(text, parameters, TOKENIZER)


def answer_of(plan: GenerationPlan, *texts: str, reason: str = "length"):
    generated = [Generated(tuple(TOKENIZER.encode([text])[0]), reason) for text in texts]
    return Generate().finish(plan, generated, TOKENIZER.decode)


def new_tokens(prompt: int, **given) -> int:
    return plan_of(words(prompt), **given).sampling.max_new_tokens


def test_without_a_limit_the_default_number_of_tokens_is_added():
    assert new_tokens(10) == OWN_NEW_TOKENS


def test_the_default_shrinks_to_what_the_context_still_holds():
    assert new_tokens(CONTEXT - 7) == 7


def test_max_length_counts_prompt_and_continuation():
    assert new_tokens(10, max_length=30) == 20


def test_max_new_tokens_counts_the_continuation_alone():
    assert new_tokens(10, max_new_tokens=30) == 30


def test_limits_may_use_the_context_to_its_last_token():
    assert new_tokens(10, max_length=CONTEXT) == new_tokens(10, max_new_tokens=CONTEXT - 10) == 90


@pytest.mark.parametrize(
    ("prompt", "given", "error", "told"),
    [
        (3, {"max_length": 9, "max_new_tokens": 3}, InvalidRequest, "exclude each other"),
        (10, {"max_length": 10}, InvalidRequest, r"max_length is 10, but text alone has 10"),
        (CONTEXT, {}, InputTooLong, "text has 100 tokens, the model takes at most 99"),
        (10, {"max_new_tokens": 91}, InputTooLong, "10 tokens and 91 more .* 100; .* by 1$"),
        (10, {"max_length": 101}, InputTooLong, "10 tokens and 91 more"),
        (3, {"num_return_sequences": 2, "temperature": 0}, InvalidRequest, "temperature 0"),
    ],
    ids=[
        "two limits",
        "max_length within the prompt",
        "prompt fills the context",
        "too many new tokens",
        "max_length over the context",
        "several greedy texts",
    ],
)
def test_what_cannot_be_done_is_refused_with_the_figures(prompt, given, error, told):
    with pytest.raises(error, match=told):
        plan_of(words(prompt), **given)


def test_parameters_reach_the_engine_as_given():
    sampling = plan_of(
        temperature=1.5, top_p=0.5, top_k=3, seed=7, stop=["a", "b"], num_return_sequences=2
    ).sampling

    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1.5, 0.5, 3)
    assert (sampling.seed, sampling.stop, sampling.sequences) == (7, ("a", "b"), 2)


def test_without_a_seed_each_request_gets_a_fresh_one_that_json_can_carry():
    seeds = {plan_of().sampling.seed for _ in range(20)}

    assert len(seeds) == 20
    assert max(seeds) < 2**53


def test_room_in_the_cache_counts_every_sequence_to_its_last_token():
    plan = plan_of(words(5), max_new_tokens=10, num_return_sequences=3)

    assert plan.most_tokens == 3 * 15


def test_one_sequence_is_a_text_and_several_are_a_list():
    assert answer_of(plan_of(), "and so on").value == "and so on"
    several = answer_of(plan_of(num_return_sequences=2), "this", "or that")
    assert several.value == ["this", "or that"]
    assert several.metadata["finish_reason"] == ["length", "length"]


def test_usage_counts_the_prompt_once_and_every_continuation():
    usage = answer_of(plan_of("one two", num_return_sequences=2), "a b c", "d").usage

    assert (usage.input_tokens, usage.output_tokens) == (2, 4)


def test_the_seed_that_was_drawn_is_told():
    plan = plan_of()

    assert answer_of(plan, "x").metadata["seed"] == plan.sampling.seed


def test_greedy_text_has_no_seed_to_tell():
    assert "seed" not in answer_of(plan_of(temperature=0), "x").metadata


def test_the_full_text_is_the_prompt_as_the_caller_wrote_it_and_the_continuation():
    plan = plan_of("one  two ", return_full_text=True)

    assert answer_of(plan, "three").value == "one  two three"


@pytest.mark.parametrize(
    ("stop", "kept"),
    [
        (["stop"], "go on and "),
        (["p he", "stop"], "go on and "),
        (["nd st"], "go on a"),
        (["never"], "go on and stop here"),
        (["go"], ""),
    ],
    ids=["a word", "the first of two", "across tokens", "absent", "at once"],
)
def test_a_continuation_ends_before_its_first_stop_text(stop, kept):
    assert answer_of(plan_of(stop=stop), "go on and stop here", reason="stop").value == kept
