"""What is told of a request before it runs: whether tokens will be drawn at random."""

from hypothesis import assume, given
from hypothesis import strategies as st

from app.core.errors import InvalidRequest
from app.core.inference import Decoding
from app.core.parameters import resolve
from app.tasks.catalogue import task_info
from app.tasks.generate import Generate
from app.tasks.summarize_text import SummarizeText
from tests.fakes import WordTokenizer
from tests.unit.tasks.tokens import SpelledWords


def some(**choices):
    return st.fixed_dictionaries({}, optional={n: st.sampled_from(v) for n, v in choices.items()})


GENERATION = some(do_sample=[True, False], temperature=[0.6], num_beams=[1, 4], top_k=[0, 50])
WISHES = some(
    do_sample=[True, False, None],
    temperature=[0.5, None],
    num_beams=[1, 2, None],
    seed=[7],
)


@given(GENERATION, WISHES)
def test_generate_draws_where_it_was_said_to(generation, wishes):
    info = task_info("generate", "tokens")
    parameters = resolve(info.parameters, wishes)
    try:
        plan = Generate(generation).prepare("a b c", parameters, WordTokenizer(100))
    except InvalidRequest:
        assume(False)
    assert info.draws is not None
    assert info.draws(parameters, generation) == (plan.sampling.temperature > 0)


@given(GENERATION, WISHES)
def test_an_encoder_decoder_draws_where_it_was_said_to(generation, wishes):
    info = task_info("summarize", "sequences")
    parameters = resolve(info.parameters, wishes)
    try:
        prepared = SummarizeText(generation).prepare("a b c", parameters, SpelledWords(100))
    except InvalidRequest:
        assume(False)
    assert isinstance(prepared.settings, Decoding)
    assert info.draws is not None
    assert info.draws(parameters, generation) == (prepared.settings.temperature > 0)
