import numpy as np

from app.core.types import Answer, Usage
from app.tasks.embed import Embed
from tests.unit.tasks.tokens import MarkedWords

VECTOR = np.array([[0.5, -0.25]], np.float32)


def embed(text, **parameters):
    task = Embed()
    return task.finish(task.prepare(text, parameters, MarkedWords(4)), list(VECTOR), parameters)


def test_the_answer_is_the_vector_as_plain_numbers():
    assert embed("one two") == Answer([0.5, -0.25], {"dimensions": 2}, Usage(input_tokens=4))


def test_a_cut_text_says_so_and_costs_what_was_run():
    answer = embed("one two three", truncate=True)

    assert answer.metadata == {"dimensions": 2, "truncated": True}
    assert answer.usage == Usage(input_tokens=4)
