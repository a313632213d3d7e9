"""Pieces of streamed texts with the logprobs of their tokens: their sum is the answer."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.inference import Generated, Sampling, TokenLogprob, Written
from app.core.types import Answer, Done, Piece
from app.runtimes.base import StepRuntime
from app.services.inference_service import InferenceRequest, InferenceResult
from app.services.openai_chunks import ChatWriter, CompletionWriter, chunks
from app.services.openai_generation import Asked, Head, chat_answer, completion_answer
from app.services.streaming import PieceBuffer
from app.tasks.generate import Generate, GenerationPlan
from app.workers.telling import MANY, Teller
from tests.unit.tasks.vocabularies import SPECIAL, TOKENS, VOCABULARIES, Vocabulary

HEAD = Head("cmpl-1", 5, "generator:v1")
STOPS = st.lists(st.text(alphabet="ab c日s/<", min_size=1, max_size=4), max_size=2)
MANY_ROWS = st.lists(TOKENS.filter(bool), min_size=MANY + 1, max_size=MANY + 3)
EMOJI = [1 + byte for byte in "a😀b".encode()]


class Reads:
    """As much of a runtime as a teller needs."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokenizer = vocabulary
        self.decode = vocabulary.decode


def teller_of(vocabulary: Vocabulary) -> Teller:
    return Teller(cast(StepRuntime, Reads(vocabulary)))


def likely(token_ids: Sequence[int]) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(-float(at), ((each, -0.5),)) for at, each in enumerate(token_ids))


def written(token_ids: Sequence[int], index: int, at: int, reason: str) -> Written:
    has_ended = at == len(token_ids) - 1
    likelihood = likely(token_ids)[at : at + 1]
    return Written((token_ids[at],), index, likelihood, reason if has_ended else None)


def told(
    vocabulary: Vocabulary, rows: Sequence[Sequence[int]], stops: Sequence[str], reason: str
) -> tuple[list[Piece], Answer]:
    """All pieces of rows that grow side by side, a token per step, and their answer."""
    sampling = Sampling(100, len(rows), temperature=1.0, stop=tuple(stops), logprobs=1)
    plan = GenerationPlan([1], sampling, "")
    teller = teller_of(vocabulary)
    texts = teller.open(plan)
    pieces: list[Piece] = []
    for at in range(max(map(len, rows)) - 1):  # the last step ends the item
        growing = [(index, row) for index, row in enumerate(rows) if at < len(row)]
        news = [written(row, index, at, reason) for index, row in growing]
        pieces += [piece for _, piece in teller.tell([(1, texts, news)])]
    generated = [Generated(tuple(row), reason, likely(row)) for row in rows]
    answer = Generate().finish(plan, generated, vocabulary.decode)
    return [*pieces, *teller.end(texts, generated, answer)], answer


async def streamed(
    pieces: Sequence[Piece], answer: Answer, writer: ChatWriter | CompletionWriter
) -> list[dict[str, Any]]:
    """Choices of all chunks, of a reader who lets every second piece wait."""
    buffer = PieceBuffer()

    async def events() -> AsyncIterator[Piece | InferenceResult]:
        for number, piece in enumerate(pieces):
            assert buffer.put(piece)
            if number % 2 and isinstance(waiting := await buffer.take(), Piece):
                yield waiting
        buffer.close()
        while isinstance(waiting := await buffer.take(), Piece):
            yield waiting
        yield InferenceResult(Done(answer), "generator:v1", "generator", 1.0)

    made: list[Any] = [chunk async for chunk in chunks(events(), writer)]
    return [choice for chunk in made for choice in chunk["choices"]]


@pytest.mark.parametrize("name", VOCABULARIES)
@given(
    rows=st.lists(TOKENS.filter(bool), min_size=1, max_size=3) | MANY_ROWS,
    stops=STOPS,
    reason=st.sampled_from(["stop", "length"]),
)
async def test_logprobs_of_chunks_are_those_of_the_whole_answer(name, rows, stops, reason):
    rows = [[*row, SPECIAL] for row in rows]
    pieces, answer = told(VOCABULARIES[name], rows, stops, reason)
    asked = Asked({"n": len(rows)}, [InferenceRequest("Once")])

    chat = await streamed(pieces, answer, ChatWriter(HEAD, asked))
    for whole in chat_answer(HEAD, asked, answer)["choices"]:
        own = [choice for choice in chat if choice["index"] == whole["index"]]
        content = [each for c in own if c["logprobs"] for each in c["logprobs"]["content"]]
        assert content == whole["logprobs"]["content"]
        assert "".join(c["delta"].get("content", "") for c in own) == whole["message"]["content"]

    parts = await streamed(pieces, answer, CompletionWriter(HEAD, asked))
    for whole in completion_answer(HEAD, asked, [answer])["choices"]:
        own = [choice for choice in parts if choice["index"] == whole["index"]]
        for field, values in whole["logprobs"].items():
            assert [v for c in own if c["logprobs"] for v in c["logprobs"][field]] == values
        assert "".join(c["text"] for c in own) == whole["text"]


def test_tokens_of_one_character_are_told_with_it():
    pieces, _ = told(VOCABULARIES["replaces"], [[*EMOJI, SPECIAL]], [], "stop")

    assert [(piece.text, piece.tokens) for piece in pieces] == [("a", 1), ("😀", 4), ("b", 1)]
    assert all(piece.logprobs for piece in pieces)


def test_pieces_of_several_texts_come_in_turn_and_count_their_own_tokens():
    rows = [[1 + byte for byte in text] + [SPECIAL] for text in (b"abc", b"12345")]
    pieces, answer = told(VOCABULARIES["replaces"], rows, [], "stop")

    assert [piece.index for piece in pieces] == [0, 1, 0, 1, 0, 1, 1, 0, 1]
    assert answer.value == ["abc", "12345"]


async def test_a_choice_that_ends_first_tells_its_reason_at_once():
    """All reasons came with the end of the longest."""
    rows = [[1 + byte for byte in text] + [SPECIAL] for text in (b"ab", b"1234")]
    pieces, answer = told(VOCABULARIES["replaces"], rows, [], "stop")
    asked = Asked({"n": len(rows)}, [InferenceRequest("Once")])

    for writer in (ChatWriter(HEAD, asked), CompletionWriter(HEAD, asked)):
        choices = await streamed(pieces, answer, writer)
        ends = [at for at, choice in enumerate(choices) if choice["finish_reason"] == "stop"]
        assert [choices[at]["index"] for at in ends] == [0, 1]
        assert ends[0] < ends[1] - 1


def test_logprobs_that_wait_for_a_reader_count_by_their_size():
    (piece, *_), _ = told(VOCABULARIES["replaces"], [[*EMOJI, SPECIAL]], [], "stop")
    buffer = PieceBuffer()
    count = 0
    while buffer.put(piece):
        count += 1

    assert count < 2**16 / len(piece.logprobs[0])


@pytest.mark.parametrize("count", [MANY + 2, 2 * MANY])
def test_of_many_texts_each_is_told_at_every_second_step_and_at_its_first(count):
    vocabulary = VOCABULARIES["replaces"]
    plan = GenerationPlan([1], Sampling(100, 1), "")
    teller = teller_of(vocabulary)
    texts = [teller.open(plan) for _ in range(count)]
    letter = 1 + ord("a")
    steps = [
        teller.tell([(item, text, [Written((letter,))]) for item, text in enumerate(texts)])
        for _ in range(9)
    ]

    assert [len(step) for step in steps] == [count] + 8 * [count // 2]
    for item in range(count):
        own = [piece.tokens for step in steps for told_of, piece in step if told_of == item]
        assert own == [1, 1, 2, 2, 2] or own == [1, 2, 2, 2, 2]


def test_few_texts_are_told_at_each_step():
    rows = [[*([1 + ord("a")] * 5), SPECIAL]] * MANY
    pieces, _ = told(VOCABULARIES["replaces"], rows, [], "stop")

    assert [piece.tokens for piece in pieces] == [1] * 5 * MANY
