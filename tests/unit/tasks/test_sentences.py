import pytest
import sentencex
from hypothesis import given
from hypothesis import strategies as st

from app.tasks import sentences
from app.tasks.sentences import split


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith left. He ran.", ["Dr. Smith left.", "He ran."]),
        ("It grew 3.5% in the U.S. economy. Good.", ["It grew 3.5% in the U.S. economy.", "Good."]),
        ('She said, "I go. You stay." Then she left.', None),
        ("A line that\ngoes on. And ends.", ["A line that goes on.", "And ends."]),
        ("A heading\n\nA text.", ["A heading", "A text."]),
        ("- one thing\n- another. And more.", ["one thing", "another.", "And more."]),
        ("1. First. It is.\n2. Second. It was.", ["First.", "It is.", "Second.", "It was."]),
        ("In 1990. It was 12. Then more.", ["In 1990.", "It was 12.", "Then more."]),
        ("One.\n***\n\nTwo.", ["One.", "Two."]),
        ("Really?! Yes... No.", ["Really?!", "Yes...", "No."]),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text, expected):
    quoted = ['She said, "I go. You stay."', "Then she left."]
    assert split(text, "en") == (expected or quoted)


def test_another_language_has_its_own_marks():
    assert split("本当に。はい。", "ja") == ["本当に。", "はい。"]


def test_a_text_without_words_is_one_sentence():
    assert split(" *** \n\n --- ", "en") == ["*** \n\n ---"]


def test_windows_do_not_change_where_sentences_end(monkeypatch):
    text = "The cat sat. A dog ran to Dr. Smith in 1990. Was it 3.5 miles? " * 40
    in_windows = split(text, "en")

    monkeypatch.setattr(sentences, "WINDOW", 10 * len(text))

    assert in_windows == split(text, "en")
    assert len(in_windows) == 120


def test_a_sentence_longer_than_a_window_stays_whole():
    long = " ".join(["word"] * 1500) + "."

    assert split(f"Short one. {long} Short two.", "en") == ["Short one.", long, "Short two."]


@pytest.mark.parametrize("unit", ["一。", "(“", ". ", "\n", "a", "1. ", "a.b ", "Aa. " + "b" * 980])
def test_the_library_gets_small_windows_and_no_character_often(unit, monkeypatch):
    given_lengths = []
    segment = sentencex.segment

    def recorded(language, text):
        given_lengths.append(len(text))
        return segment(language, text)

    monkeypatch.setattr(sentencex, "segment", recorded)
    text = unit * (100_000 // len(unit))
    split(text, "en")

    assert max(given_lengths) <= sentences.WINDOW
    assert sum(given_lengths) <= 3 * len(text)


@given(st.text(alphabet=st.sampled_from("ab. \n-1)。“\"'?"), max_size=300).filter(str.strip))
def test_no_word_is_lost_or_moved(text):
    kept = "".join(split(text, "en"))

    assert [c for c in kept if c in "ab"] == [c for c in text if c in "ab"]
