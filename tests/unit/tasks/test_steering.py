"""Steering a generation: who takes it, and what is refused by name."""

import math
from typing import Any

import pytest

from app.core.errors import InvalidRequest
from app.core.inference import Generated, Sampling, TokenLogprob
from app.core.parameters import resolve
from app.tasks.parameters import GENERATE
from app.tasks.steering import steer, told


class PlainTokenizer:
    max_tokens = 99

    def encode(self, texts):
        return [[1] for _ in texts]


class Steered(PlainTokenizer):
    vocabulary = 50

    def __init__(self) -> None:
        self.schemas: list[str] = []

    def check_schema(self, schema: str) -> None:
        self.schemas.append(schema)
        if "wat" in schema:
            raise InvalidRequest("no such type")


def steered(tokenizer: Any = None, *, beams: int = 1, **given: Any) -> Sampling:
    sampling = Sampling(9, beams=beams)
    return steer(sampling, resolve(GENERATE, given), tokenizer or Steered())


@pytest.mark.parametrize(
    "given",
    [
        {"min_p": 0.1},
        {"logit_bias": {"3": 1}},
        {"logprobs": 0},
        {"json_schema": "{}"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_runtime_that_shows_no_logits_refuses_each_by_name_and_so_do_beams(given):
    (name,) = given

    with pytest.raises(InvalidRequest, match=f"^parameters.{name} is not supported"):
        steered(PlainTokenizer(), **given)
    with pytest.raises(InvalidRequest, match=f"^parameters.{name} does not go with .*num_beams"):
        steered(beams=2, **given)


def test_neutral_values_ask_for_nothing():
    assert steered(PlainTokenizer(), min_p=0, logit_bias={}, json_schema=None) == Sampling(9)


def test_what_is_wanted_reaches_the_runtime():
    sampling = steered(min_p=0.2, logit_bias={"3": -100, "49": 2.5}, logprobs=4)

    assert sampling == Sampling(9, min_p=0.2, logit_bias=((3, -100.0), (49, 2.5)), logprobs=4)


@pytest.mark.parametrize(
    "bias",
    [
        {"50": 1},
        {"-1": 1},
        {"a": 1},
        {"٣": 1},
        {"3": 101},
        {"3": "1"},
        {"3": True},
        {"3": math.nan},
    ],
    ids=str,
)
def test_a_bias_that_is_none_is_refused(bias):
    with pytest.raises(InvalidRequest, match="^parameters.logit_bias"):
        steered(logit_bias=bias)


def test_too_many_biases_are_refused():
    with pytest.raises(InvalidRequest, match="at most 1024"):
        steered(logit_bias={str(n): 1 for n in range(2000)})


def test_a_schema_is_checked_before_it_is_let_in():
    tokenizer = Steered()

    assert steered(tokenizer, json_schema='{"type": "string"}').json_schema == '{"type": "string"}'
    assert tokenizer.schemas == ['{"type": "string"}']
    with pytest.raises(InvalidRequest, match="^parameters.json_schema: no such type"):
        steered(json_schema='{"type": "wat"}')


def test_logprobs_are_told_token_by_token_without_the_end():
    said = (TokenLogprob(-0.5, ((7, -0.5), (2, -1.0))), TokenLogprob(-2.0))
    decode = {7: "a", 2: "", 8: "b"}.__getitem__

    cut, ended = told(
        [Generated((7, 8), "length", said), Generated((7, 2), "stop", said)],
        lambda ids: decode(ids[0]),
    )

    first = {"token": "a", "logprob": -0.5, "top": [["a", -0.5], ["", -1.0]]}
    assert cut == [first, {"token": "b", "logprob": -2.0, "top": []}]
    assert ended == [first]
