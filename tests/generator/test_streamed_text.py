"""What the embedded generator's tokens become while they are written is what they become."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.inference import Generated, Sampling
from app.runtimes.openvino_paged import OpenVinoLlm
from app.tasks.detokenise import TextStream, reader_of

pytestmark = pytest.mark.timeout(180)

VOCABULARY = 49152
TEXTS = st.text(alphabet=st.sampled_from("a b.é日本語😀👩\u200d👧🏽\n"), min_size=1, max_size=20)


def written(
    runtime: OpenVinoLlm, text: str, sampling: Sampling
) -> tuple[list[int], tuple[Generated, ...], int]:
    """Tokens as the steps told them, what was generated, and in how many steps."""
    runtime.add(1, runtime.tokenizer.encode([text])[0], sampling)
    tokens: list[int] = []
    steps = 0
    while True:
        outcome = runtime.step()
        steps += 1
        tokens += [each for news in outcome.written.get(1, ()) for each in news.token_ids]
        if 1 in outcome.finished:
            return tokens, outcome.finished[1], steps


@given(token_ids=st.lists(st.integers(0, VOCABULARY - 1), max_size=80))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_pieces_of_any_tokens_make_up_their_text(runtime, token_ids):
    assert in_pieces(runtime, token_ids) == runtime.decode(token_ids)


@given(texts=st.lists(TEXTS, max_size=6))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_pieces_of_rare_characters_make_up_their_text(runtime, texts):
    token_ids = [one for row in runtime.tokenizer.encode(texts) for one in row]

    assert in_pieces(runtime, token_ids) == runtime.decode(token_ids)


def in_pieces(runtime: OpenVinoLlm, token_ids: list[int]) -> str | None:
    stream = TextStream(reader_of(runtime.tokenizer, runtime.decode))
    said = "".join(stream.feed([token_id]) for token_id in token_ids)
    rest = stream.end(runtime.decode(token_ids))
    return None if rest is None else said + rest


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stop": (" force that",)},
        {"stop": ("that", "zzz")},
        {"temperature": 0.9, "seed": 7},
        {"max_new_tokens": 1},
        {"min_new_tokens": 5, "repetition_penalty": 1.3},
    ],
)
def test_tokens_that_the_steps_tell_are_those_that_were_generated(runtime, options):
    sampling = Sampling(**{"max_new_tokens": 24, **options})
    tokens, (generated,), steps = written(runtime, "Gravity is", sampling)

    assert tokens == list(generated.token_ids) and steps >= len(tokens)
    assert generated.finish_reason == (
        "length" if len(tokens) == sampling.max_new_tokens else "stop"
    )


def test_a_text_that_ends_by_itself_is_told_to_its_end(runtime):
    prompt = "<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n1 + 1 ="
    tokens, (generated,), _ = written(runtime, prompt, Sampling(max_new_tokens=200))

    assert generated.finish_reason == "stop" and tokens == list(generated.token_ids)
    assert "<|" not in runtime.decode(tokens)


def test_several_texts_are_told_side_by_side_with_their_logprobs(runtime):
    sampling = Sampling(6, sequences=3, temperature=1.5, seed=3, stop=("e",), logprobs=2)
    runtime.add(1, runtime.tokenizer.encode(["Gravity is"])[0], sampling)
    told: dict[int, Generated] = {number: Generated((), "") for number in range(3)}
    finished: dict[int, Any] = {}
    while not finished:
        outcome = runtime.step()
        finished = dict(outcome.finished)
        for news in outcome.written.get(1, ()):
            was = told[news.index]
            both = was.token_ids + news.token_ids, "", was.logprobs + news.logprobs
            told[news.index] = Generated(*both)

    for number, one in enumerate(finished[1]):
        assert (told[number].token_ids, told[number].logprobs) == (one.token_ids, one.logprobs)
    assert len({one.token_ids for one in finished[1]}) > 1


def test_a_sequence_that_leaves_leaves_nothing(runtime):
    runtime.add(1, runtime.tokenizer.encode(["Gravity is"])[0], Sampling(max_new_tokens=50))
    runtime.step()
    runtime.cancel(1)
    outcome: Any = runtime.step()

    assert not outcome.written and not outcome.finished


def test_cache_of_sequences_that_left_is_free_at_once(runtime):
    free = runtime._blocks.free
    for sequence_id in (1, 2):
        prompt = runtime.tokenizer.encode(["Gravity is"])[0]
        runtime.add(sequence_id, prompt, Sampling(max_new_tokens=50))
    runtime.step()
    assert runtime._blocks.free < free
    for sequence_id in (1, 2):
        runtime.cancel(sequence_id)

    assert runtime._blocks.free == free


def test_rows_are_decoded_together_as_alone(runtime):
    rows = runtime.tokenizer.encode(["Gravity is 😀", "a", "日本語 and more of it"])

    assert runtime.decode_many(rows) == [runtime.decode(row) for row in rows]
    assert runtime.decode_many([[49151], []]) == [runtime.decode([49151]), runtime.decode([])]
