"""Text while it is written: the pieces make up the text, whatever the tokens are."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tasks.detokenise import PATIENT_TOKENS, TextStream, TokenReader, reader_of
from app.tasks.generate import _until_stop
from tests.unit.tasks.vocabularies import TOKENS, VOCABULARIES, WORDS, Vocabulary


def told(
    vocabulary: Vocabulary,
    token_ids: Sequence[int],
    stops: Sequence[str] = (),
    sizes: Sequence[int] = (1,),
) -> tuple[list[str], str | None, str]:
    """Pieces of steps of these sizes, what the end adds, and the text."""
    stream = TextStream(reader_of(vocabulary, vocabulary.decode), stops=stops)
    pieces, at = [], 0
    for step in range(len(token_ids)):
        size = sizes[step % len(sizes)]
        pieces.append(stream.feed(token_ids[at : at + size]))
        at += size
    text = _until_stop(vocabulary.decode(token_ids), stops)
    return pieces, stream.end(text), text


@pytest.mark.parametrize("name", VOCABULARIES)
@given(token_ids=TOKENS, sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_pieces_make_up_the_text(name, token_ids, sizes):
    pieces, rest, text = told(VOCABULARIES[name], token_ids, sizes=sizes)

    assert rest is not None and "".join(pieces) + rest == text


@pytest.mark.parametrize("name", VOCABULARIES)
@given(
    token_ids=TOKENS,
    stops=st.lists(st.text(alphabet="ab c日s/<", min_size=1, max_size=4), max_size=3),
)
def test_pieces_never_have_what_a_stop_cuts_off(name, token_ids, stops):
    pieces, rest, text = told(VOCABULARIES[name], token_ids, stops)

    assert rest is not None and "".join(pieces) + rest == text


@pytest.mark.parametrize("name", VOCABULARIES)
def test_text_of_whole_words_is_told_with_each_token(name):
    words = [257 + at for at, word in enumerate(WORDS) if word != "▁"]

    pieces, rest, text = told(VOCABULARIES[name], words * 8)

    assert all(pieces) and rest == "" and len(pieces) == 8 * len(words)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_no_piece_has_a_part_of_a_character(name):
    token_ids = [1 + byte for byte in "a 日本 😀é👩\u200d👩".encode()] + [257]

    pieces, _, text = told(VOCABULARIES[name], token_ids)

    assert "".join(pieces) == text and not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_may_be_taken_back_wait_for_what_settles_them():
    vocabulary = VOCABULARIES["fallback"]
    emoji = [1 + byte for byte in "😀".encode()]
    broken = [*emoji, emoji[0]]
    assert vocabulary.decode(broken) == 5 * "\ufffd"

    assert told(vocabulary, [257, *broken, 260])[0] == [
        "The",
        "",
        "",
        "",
        "",
        "",
        5 * "\ufffd" + "s",
    ]
    assert told(vocabulary, [257, *emoji, 260])[0] == ["The", "", "", "", "", "😀s"]


def test_end_of_a_text_waits_while_it_may_become_a_stop():
    vocabulary = VOCABULARIES["replaces"]
    token_ids = [1 + byte for byte in b"a </s> b </p>"]

    pieces, rest, _ = told(vocabulary, token_ids, ["</p>"])

    assert pieces == ["a", " ", "", "", "</s", ">", " ", "b", " ", "", "", "", ""]
    assert rest == ""


def test_head_stands_in_front_of_the_first_piece():
    reader = TokenReader(lambda token_ids: "x" * len(token_ids))
    stream = TextStream(reader, head="once ")

    assert [stream.feed([1]), stream.feed([1, 1]), stream.end("once xxx")] == ["once x", "xx", ""]
    assert TextStream(reader, head="once ").end("once x") == "once x"


def test_text_that_lacks_what_was_told_is_noticed():
    stream = TextStream(TokenReader(lambda token_ids: "x" * len(token_ids)))
    stream.feed([1, 1])

    assert stream.end("xy") is None


@pytest.mark.parametrize("name", VOCABULARIES)
def test_work_per_token_does_not_grow_with_the_text(name):
    vocabulary = VOCABULARIES[name]
    for token_ids in ([257, 259] * 2000, [1 + byte for byte in "😀".encode()] * 1000):
        vocabulary.decoded_tokens = 0
        stream = TextStream(reader_of(vocabulary, vocabulary.counted))
        for token_id in token_ids:
            stream.feed([token_id])

        assert vocabulary.decoded_tokens / len(token_ids) < 3 * PATIENT_TOKENS
