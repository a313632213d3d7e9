"""A text as rows: whole, cut, or in parts that are about equally long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InputTooLong, InvalidRequest
from app.tasks.documents import balanced, rows_of, wish
from tests.unit.tasks.tokens import END, START, SpelledWords

FIVE = "One two three. Four five. Six seven eight nine. Ten. Eleven twelve."
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=40)


def rows(text, long_document="refuse", instruction="", **tokenizer):
    words = SpelledWords(**tokenizer)
    found = rows_of(
        text,
        words,
        long_document=long_document,
        taker="summarizer",
        language="en",
        instruction=instruction,
    )
    return found, [words.decode(row) for row in found.rows]


def test_a_text_that_fits_is_one_row_whatever_is_wished():
    for long_document in ("refuse", "truncate", "merge"):
        found, texts = rows(FIVE, long_document)
        assert texts == [FIVE]
        assert found.metadata == {}


def test_a_longer_one_is_refused_with_both_counts_and_the_ways_out():
    with pytest.raises(InputTooLong, match="has 14 tokens, summarizer takes at most 8.*merge"):
        rows(FIVE, max_tokens=8)


@pytest.mark.parametrize(
    ("front", "back"),
    [((START,), (END,)), ((), (END,)), ((), (END, 7)), ((7,), (END,)), ((END,), (END,))],
    ids=["bart", "t5", "mbart", "nllb", "equal marks"],
)
def test_cutting_keeps_every_mark_at_its_end(front, back):
    found, texts = rows(FIVE, "truncate", max_tokens=6, front=front, back=back)

    assert found.metadata == {"truncated": True}
    (row,) = found.rows
    assert len(row) == 6
    assert tuple(row[: len(front)]) == front
    assert tuple(row[len(row) - len(back) :]) == back
    assert FIVE.startswith(texts[0])


def test_parts_end_where_sentences_do_and_are_about_equally_long():
    found, texts = rows(FIVE, "merge", max_tokens=9)

    assert texts == ["One two three. Four five.", "Six seven eight nine. Ten. Eleven twelve."]
    assert found.metadata == {"long_document": "merge", "chunks": 2}
    assert all(row[0] == START and row[-1] == END for row in found.rows)


def test_an_instruction_stands_before_the_text_and_before_each_part():
    assert rows("Ha ha.", instruction="shorten: ")[1] == ["shorten: Ha ha."]
    parts = rows(FIVE, "merge", "shorten: ", max_tokens=9)[1]

    assert all(part.startswith("shorten: ") for part in parts)
    assert " ".join(part.removeprefix("shorten: ") for part in parts) == FIVE


def test_a_sentence_longer_than_a_part_is_taken_apart():
    long = " ".join(f"w{number}" for number in range(50)) + "."
    found, texts = rows(long, "merge", max_tokens=12)

    assert " ".join(texts) == long
    assert [len(row) for row in found.rows] == [12] * 5


@given(LENGTHS, st.integers(1, 60))
def test_parts_hold_everything_in_order_are_few_and_alike(lengths, room):
    numbers = iter(range(10_000))
    sentences = [[next(numbers) for _ in range(length)] for length in lengths]
    parts = balanced(sentences, room)

    assert [token for part in parts for token in part] == list(range(sum(lengths)))
    assert all(1 <= len(part) <= room for part in parts)
    if max(lengths) <= room:
        greedy, held = 1, 0
        for length in lengths:
            greedy, held = (greedy + 1, length) if held + length > room else (greedy, held + length)
        assert len(parts) == greedy
        assert max(map(len, parts)) <= sum(lengths) / len(parts) + max(lengths)


@pytest.mark.parametrize(
    ("truncate", "long_document", "wished"),
    [
        (False, "refuse", "refuse"),
        (False, "merge", "merge"),
        (True, "refuse", "truncate"),
        (True, "truncate", "truncate"),
    ],
)
def test_truncate_is_short_for_a_way_with_long_documents(truncate, long_document, wished):
    assert wish(truncate, long_document) == wished


def test_cutting_and_merging_exclude_each_other():
    with pytest.raises(InvalidRequest, match="truncate and parameters.long_document"):
        wish(True, "merge")
