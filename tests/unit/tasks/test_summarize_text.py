"""Summarizing with an encoder-decoder: the checkpoint's defaults, the request, the answer."""

import pytest

from app.core.errors import InvalidRequest
from app.core.inference import Decoding, Generated
from app.core.parameters import resolve
from app.core.types import Usage
from app.tasks.catalogue import TASKS
from app.tasks.writing_parameters import SUMMARIZE
from app.tasks.summarize_text import SummarizeText
from tests.unit.tasks.tokens import SpelledWords

BART = {
    "num_beams": 4,
    "length_penalty": 2.0,
    "no_repeat_ngram_size": 3,
    "min_length": 56,
    "max_length": 142,
    "early_stopping": True,
    "forced_bos_token_id": 0,
}
TEXT = " ".join(f"word{number}" for number in range(100)) + "."


def prepared(text=TEXT, generation=BART, max_tokens=1024, **given):
    task = SummarizeText(generation=generation)
    return task.prepare(text, resolve(SUMMARIZE, given), SpelledWords(max_tokens))


def decoding(text=TEXT, generation=BART, max_tokens=1024, **given) -> Decoding:
    found = prepared(text, generation, max_tokens, **given).settings
    assert isinstance(found, Decoding)
    return found


def refusal(generation=BART, **given) -> str:
    with pytest.raises(InvalidRequest) as refused:
        prepared(generation=generation, **given)
    return str(refused.value)


def test_what_the_checkpoint_says_holds_and_its_lengths_count_the_start_token():
    assert decoding() == Decoding(
        max_tokens=141,
        min_tokens=55,
        beams=4,
        length_penalty=2.0,
        no_repeat_ngram=3,
        early_stopping=True,
        prefix=(0,),
    )


def test_a_checkpoint_that_says_nothing_is_decoded_greedily():
    assert decoding(generation={}) == Decoding(max_tokens=141)
    never = Decoding(max_tokens=141, early_stopping="never")
    assert decoding(generation={"early_stopping": "never"}) == never


def test_the_request_overrides_the_checkpoint():
    found = decoding(
        max_length=80,
        min_length=10,
        num_beams=2,
        length_penalty=-1,
        early_stopping=False,
        no_repeat_ngram_size=0,
        repetition_penalty=1.5,
    )

    assert found == Decoding(
        max_tokens=79,
        min_tokens=9,
        beams=2,
        length_penalty=-1.0,
        repetition_penalty=1.5,
        prefix=(0,),
    )


def test_a_default_minimum_gives_way_to_a_maximum_but_two_wishes_must_agree():
    assert decoding(max_length=30).min_tokens == 29
    assert "min_length (60) must not exceed max_length (50)" in refusal(
        min_length=60, max_length=50
    )


def test_no_summary_must_be_longer_than_its_text():
    assert decoding("Five words and two marks.").min_tokens == 7 - 1
    assert decoding("Five words and two marks.", min_length=50).min_tokens == 7 - 1


def test_max_length_ends_where_the_models_positions_may():
    assert decoding(max_tokens=512, max_length=512).max_tokens == 511
    assert decoding(max_tokens=110, max_length=142).max_tokens == 141, "the checkpoint's own fits"
    with pytest.raises(InvalidRequest, match="at most 512 for this model, not 513"):
        prepared(max_tokens=512, max_length=513)


def test_beams_and_length_together_are_bounded_and_a_default_gives_way():
    patient = {"num_beams": 16, "max_length": 1024, "min_length": 900}

    assert "at most 512 with 16 beams (num_beams), not 1024" in refusal(
        max_tokens=1024, num_beams=16, max_length=1024
    )
    assert decoding(max_tokens=1024, num_beams=8, max_length=1024).held_tokens == 8 * 1023
    found = decoding("word " * 600, max_tokens=1024, generation=patient)
    assert (found.max_tokens, found.min_tokens) == (511, 511)


def test_sampling_takes_one_beam_and_the_seed_that_is_given():
    found = decoding(do_sample=True, temperature=0.5, top_p=0.9, top_k=0, seed=7)

    assert (found.beams, found.temperature, found.top_p, found.top_k, found.seed) == (
        1,
        0.5,
        0.9,
        None,
        7,
    )
    assert decoding(do_sample=True).top_k == 50


def test_without_a_seed_each_request_gets_its_own_and_is_told():
    task, parameters = SummarizeText(), resolve(SUMMARIZE, {"do_sample": True})
    told = []
    for _ in range(2):
        ready = task.prepare(TEXT, parameters, SpelledWords(1024))
        answer = task.finish(ready, [(Generated((100,), "stop"),)], parameters)
        told.append(answer.metadata["seed"])
        assert isinstance(ready.settings, Decoding)
        assert ready.settings.seed == told[-1]

    assert told[0] != told[1]


def test_a_checkpoint_that_samples_does_so_unless_beams_are_asked_for():
    sampling = {"do_sample": True, "temperature": 0.7, "num_beams": 4}

    assert decoding(generation=sampling).temperature == 0.7
    assert decoding(generation=sampling, do_sample=False).temperature == 0.0
    searched = decoding(generation=sampling, num_beams=3)
    assert (searched.beams, searched.temperature) == (3, 0.0)


def test_sampling_excludes_beams_and_its_parameters_need_it():
    assert "do_sample excludes parameters.num_beams above 1 (4)" in refusal(
        do_sample=True, num_beams=4
    )
    for name, value in {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 1}.items():
        assert f"parameters.{name} has no effect without sampling" in refusal(**{name: value})


def test_the_answer_is_the_text_with_its_counts_and_why_it_ended():
    task, words = SummarizeText(generation=BART), SpelledWords(1024)
    parameters = resolve(SUMMARIZE, {})
    ready = task.prepare("One two three.", parameters, words)
    written = Generated(tuple(words.encode(["Short."])[0][1:-1]), "stop")
    answer = task.finish(ready, [(written,)], parameters)

    assert answer.value == "Short."
    assert answer.metadata == {"finish_reason": "stop"}
    assert answer.usage == Usage(input_tokens=5, output_tokens=1)


def test_parts_are_joined_in_order_and_one_that_hit_the_limit_is_told():
    task, words = SummarizeText(), SpelledWords(6)
    parameters = resolve(SUMMARIZE, {"long_document": "merge", "max_length": 5})
    ready = task.prepare("One two three. Four five six.", parameters, words)
    tokens = words.encode(["First.", "Second."])
    outputs = [
        (Generated(tuple(tokens[0][1:-1]), "length"),),
        (Generated(tuple(tokens[1][1:-1]), "stop"),),
    ]
    answer = task.finish(ready, outputs, parameters)

    assert answer.value == "First. Second."
    assert answer.metadata == {"finish_reason": "length", "long_document": "merge", "chunks": 2}
    assert answer.usage == Usage(input_tokens=10, output_tokens=2)


def test_a_minimum_holds_for_each_part_as_far_as_the_part_has_tokens():
    ready = prepared("One two three. Four five six.", max_tokens=6, long_document="merge")

    assert isinstance(ready.settings, Decoding)
    assert ready.settings.min_tokens == min(map(len, ready.rows)) - 1 == 4


def test_an_empty_text_is_refused():
    with pytest.raises(InvalidRequest, match="must not be empty"):
        prepared(" \n")


def test_ways_with_long_documents_are_shown_and_others_refused():
    (parameter,) = (p for p in SUMMARIZE if p.name == "long_document")

    assert parameter.describe()["choices"] == ("refuse", "truncate", "merge")
    with pytest.raises(InvalidRequest, match="must be one of: refuse, truncate, merge"):
        resolve(SUMMARIZE, {"long_document": "burn"})


def test_both_ways_of_summarizing_stand_in_the_catalogue():
    assert {kind for name, kind in TASKS if name == "summarize"} == {"vectors", "sequences"}
