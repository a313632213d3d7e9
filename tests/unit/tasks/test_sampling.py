"""What holds when a text is continued: the request, then its checkpoint, then our own rule."""

from typing import Any

import pytest

from app.core.errors import CannotLoad, InvalidRequest
from app.core.inference import Sampling
from app.core.parameters import resolve
from app.tasks.catalogue import build_task
from app.tasks.generate import Generate
from app.tasks.parameters import GENERATE
from tests.fakes import WordTokenizer

LLAMA = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 2]}


def sampling(generation: dict[str, Any] | None = None, /, words: int = 4, **given) -> Sampling:
    text = " ".join(f"w{n}" for n in range(words))
    return Generate(generation).prepare(text, resolve(GENERATE, given), WordTokenizer(100)).sampling


def chosen(
    generation: dict[str, Any] | None = None, /, **given
) -> tuple[float, float, int | None, int]:
    made = sampling(generation, **given)
    return made.temperature, made.top_p, made.top_k, made.beams


@pytest.mark.parametrize(
    "generation",
    [None, {}, {"eos_token_id": 50256, "bos_token_id": 50256}, {"temperature": None}],
    ids=["none", "empty", "token ids alone", "null"],
)
def test_a_checkpoint_that_says_nothing_of_sampling_is_sampled_by_our_own_rule(generation):
    assert chosen(generation) == (0.7, 0.95, None, 1)
    assert sampling(generation).max_new_tokens == 50


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (LLAMA, (0.6, 0.9, 50, 1)),
        ({"do_sample": True}, (0.7, 1.0, 50, 1)),
        ({"top_k": 0, "top_p": 0.8}, (0.7, 0.8, None, 1)),
        ({"do_sample": False, "temperature": 0.6}, (0.0, 1.0, 50, 1)),
        ({"temperature": 0}, (0.0, 1.0, 50, 1)),
        ({"num_beams": 4}, (0.0, 0.95, None, 4)),
    ],
    ids=["llama", "samples", "knobs alone", "greedy", "no heat", "beams"],
)
def test_the_checkpoints_own_way_holds_where_the_request_is_silent(generation, expected):
    assert chosen(generation) == expected


@pytest.mark.parametrize(
    ("generation", "given", "expected"),
    [
        (LLAMA, {"temperature": 1.2, "top_p": 0.5, "top_k": 7}, (1.2, 0.5, 7, 1)),
        (LLAMA, {"top_k": 0}, (0.6, 0.9, None, 1)),
        (LLAMA, {"do_sample": False}, (0.0, 0.9, 50, 1)),
        (LLAMA, {"temperature": 0}, (0.0, 0.9, 50, 1)),
        (LLAMA, {"num_beams": 2}, (0.0, 0.9, 50, 2)),
        ({"do_sample": False}, {"temperature": 0.5}, (0.5, 0.95, None, 1)),
        ({"do_sample": False, "temperature": 0.6}, {"do_sample": True}, (0.6, 1.0, 50, 1)),
        ({"num_beams": 4}, {"do_sample": True}, (0.7, 0.95, None, 1)),
        ({"num_beams": 4}, {"num_beams": 1}, (0.0, 0.95, None, 1)),
        ({"num_beams": 4}, {"presence_penalty": 1}, (0.0, 0.95, None, 1)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_the_request_overrides_its_checkpoint(generation, given, expected):
    assert chosen(generation, **given) == expected


def test_penalties_and_the_least_of_tokens_reach_the_engine():
    made = sampling(
        {"repetition_penalty": 1.1, "min_new_tokens": 3}, frequency_penalty=0.5, presence_penalty=-1
    )
    asked = sampling({"repetition_penalty": 1.1}, repetition_penalty=1, min_new_tokens=7)

    assert (made.repetition_penalty, made.min_new_tokens) == (1.1, 3)
    assert (made.frequency_penalty, made.presence_penalty) == (0.5, -1)
    assert (asked.repetition_penalty, asked.min_new_tokens) == (1.0, 7)


@pytest.mark.parametrize(
    ("generation", "words", "given", "expected"),
    [
        ({"max_length": 50}, 10, {}, (40, 0)),
        ({"max_length": 50}, 60, {}, (40, 0)),
        ({"max_length": 5}, 10, {}, (50, 0)),
        ({"max_new_tokens": 256}, 10, {}, (90, 0)),
        ({"max_length": 50, "max_new_tokens": 7}, 10, {}, (7, 0)),
        ({"max_length": 50, "min_length": 15}, 10, {}, (40, 5)),
        ({"min_length": 40}, 10, {"max_new_tokens": 8}, (8, 8)),
        ({"max_length": 50}, 10, {"max_length": 12}, (2, 0)),
        ({}, 10, {"min_new_tokens": 70}, (70, 70)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_limits_are_the_checkpoints_own_unless_the_request_has_some(
    generation, words, given, expected
):
    made = sampling(generation, words=words, **given)

    assert (made.max_new_tokens, made.min_new_tokens) == expected


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"do_sample": True, "temperature": 0}, "do_sample is true, but .*temperature is 0"),
        ({"do_sample": False, "temperature": 0.5}, "do_sample is false, but .*temperature is 0.5"),
        ({"num_beams": 2, "temperature": 0.5}, "num_beams is 2, but beams are not sampled"),
        ({"num_beams": 2, "do_sample": True}, "num_beams is 2, but beams are not sampled"),
        ({"num_beams": 2, "repetition_penalty": 1.2}, "repetition_penalty does not go with"),
        ({"num_beams": 2, "num_return_sequences": 3}, "sequences is 3, but 2 beams"),
        ({"do_sample": False, "num_return_sequences": 2}, "sequences is 2, but without sampling"),
        ({"min_new_tokens": 9, "max_new_tokens": 5}, "min_new_tokens is 9, but only 5"),
        ({"min_new_tokens": 99}, "min_new_tokens is 99, but only 96"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_parameters_that_contradict_each_other_are_refused_by_name(given, told):
    with pytest.raises(InvalidRequest, match=told):
        sampling(None, **given)


def test_a_text_without_tokens_is_refused():
    with pytest.raises(InvalidRequest, match="no tokens"):
        sampling(words=0)


def test_beams_take_room_in_the_cache_like_sequences():
    parameters = resolve(GENERATE, {"num_beams": 4, "max_new_tokens": 8})

    assert Generate().prepare("one two", parameters, WordTokenizer(100)).most_tokens == 4 * 10


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": "hot"}, {"top_p": 0}, {"top_k": 1.5}, {"num_beams": True}, {"max_length": -1}],
    ids=repr,
)
def test_a_checkpoint_whose_defaults_make_no_sense_is_refused_by_their_name(wrong):
    (name,) = wrong

    with pytest.raises(CannotLoad, match=f"generation says {name}"):
        build_task("generate", "tokens", generation=wrong)
