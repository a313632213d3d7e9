"""Translating with an encoder-decoder: models of one pair, and of many languages."""

import pytest

from app.core.errors import InvalidRequest
from app.core.inference import Decoding, Generated
from app.core.parameters import resolve
from app.core.types import Usage
from app.tasks.languages import Languages
from app.tasks.writing_parameters import TRANSLATE
from app.tasks.translate import Translate
from tests.unit.tasks.tokens import END, SpelledWords

NLLB = {"eng_Latn": 50, "fra_Latn": 51, "zho_Hans": 52, "</s>": END}


def nllb() -> SpelledWords:
    return SpelledWords(front=(50,), back=(END,), special=NLLB)


def prepared(words, text="Hello world.", generation=None, **given):
    return Translate(generation).prepare(text, resolve(TRANSLATE, given), words)


def refusal(words, **given) -> str:
    with pytest.raises(InvalidRequest) as refused:
        prepared(words, **given)
    return str(refused.value)


def test_a_model_of_one_pair_needs_no_language():
    ready = prepared(SpelledWords(), generation={"num_beams": 6, "max_length": 512})

    assert ready.settings == Decoding(max_tokens=511, beams=6)
    assert "has no tokens for languages" in refusal(SpelledWords(), target_lang="fr")


def test_the_target_is_written_first_and_the_source_stands_where_the_tokenizer_puts_it():
    ready = prepared(nllb(), source_lang="zho_Hans", target_lang="fra_Latn")

    assert ready.settings.prefix == (51,)
    assert ready.rows[0][0] == 52
    mbart = SpelledWords(front=(), back=(END, 60), special={"en_XX": 60, "fr_XX": 61})
    assert prepared(mbart, source_lang="fr_XX", target_lang="en_XX").rows[0][-2:] == [END, 61]


def test_the_source_is_the_tokenizers_own_unless_one_is_named():
    assert prepared(nllb(), target_lang="fra_Latn").rows[0][0] == 50


def test_languages_are_named_as_people_name_them():
    words = SpelledWords(special={"__fr__": 70, "__ast__": 71, "<pad>": 0, "zh_CN": 72})

    assert Languages.of(words).tokens == {"fr": 70, "ast": 71, "zh_CN": 72}


def test_a_model_of_many_languages_must_be_told_one_that_it_has():
    assert "target_lang is required: this model translates into 3 languages" in refusal(nllb())
    assert "'klingon' is not a language of this model; it has: eng_Latn, fra_Latn" in refusal(
        nllb(), target_lang="klingon"
    )


def test_options_of_the_version_say_what_a_request_may_leave_out():
    task = Translate(source_lang="zho_Hans", target_lang="fra_Latn")
    ready = task.prepare("Hello.", resolve(TRANSLATE, {"max_length": 9}), nllb())

    assert ready.settings == Decoding(max_tokens=8, prefix=(51,))
    assert ready.rows[0][0] == 52


def test_a_checkpoints_forced_first_token_is_its_language():
    ready = prepared(nllb(), generation={"max_length": 20, "forced_bos_token_id": 52})

    assert ready.settings == Decoding(max_tokens=19, prefix=(52,))


def test_a_tokenizer_that_marks_no_language_takes_no_source():
    words = SpelledWords(special={"__fr__": 70})

    assert "marks no language" in refusal(words, source_lang="fr", target_lang="fr")


CODES = {">>fra<<": 80, ">>zho_Hans<<": 81}


def test_a_model_of_several_targets_reads_which_at_the_start_of_the_text():
    words = SpelledWords(front=(), special=CODES)
    (row,) = prepared(words, target_lang="fra").rows

    assert row[0] == 80 and words.decode(row) == "Hello world."
    assert prepared(words, text=">>fra<< Hello world.").rows == (row,)
    assert prepared(words, text=">>zho_Hans<< Hello world.", target_lang="fra").rows == (row,)
    assert prepared(words, target_lang="fra").settings.prefix == ()


def test_a_model_of_several_targets_refuses_what_it_cannot_do():
    words = SpelledWords(front=(), special=CODES)

    assert "among them: fra, zho_Hans" in refusal(words)
    assert "'deu' is not a language of this model; it has: fra, zho_Hans" in refusal(
        words, target_lang="deu"
    )
    assert "it takes the target alone" in refusal(words, source_lang="fra", target_lang="fra")
    assert "target_lang is required" in refusal(words, text=">>deu<< Hello.")


def test_each_part_of_a_long_text_begins_with_the_target():
    words = SpelledWords(max_tokens=6, front=(), special=CODES)
    task = Translate(instruction="kindly: ", target_lang="fra")
    text = "One two three. Four five six."
    rows = task.prepare(text, resolve(TRANSLATE, {"long_document": "merge"}), words).rows

    assert [row[0] for row in rows] == [80, 80]
    assert [words.decode(row) for row in rows] == [
        "kindly: One two three.",
        "kindly: Four five six.",
    ]


def test_parts_of_a_long_text_are_each_in_its_language():
    words = SpelledWords(max_tokens=6, front=(50,), back=(END,), special=NLLB)
    parameters = resolve(
        TRANSLATE,
        {
            "source_lang": "zho_Hans",
            "target_lang": "fra_Latn",
            "long_document": "merge",
            "max_length": 6,
        },
    )
    task = Translate()
    ready = task.prepare("One two three. Four five six.", parameters, words)
    said = words.encode(["Un.", "Quatre."])
    answer = task.finish(
        ready, [(Generated(tuple(row[1:-1]), "stop"),) for row in said], parameters
    )

    assert [row[0] for row in ready.rows] == [52, 52]
    assert answer.value == "Un. Quatre."
    assert answer.usage == Usage(input_tokens=10, output_tokens=2)
    assert answer.metadata["chunks"] == 2
