import numpy as np
import pytest

from app.core.errors import InvalidRequest
from app.core.tensors import Signature, TensorSpec
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


def cut(lengths, wanted, width=None):
    task = Embed(dimensions=lengths)
    if width is not None:
        task.fit(Signature((), (TensorSpec("v", "FP32", (None, width)),)))
    prepared = task.prepare("one", {"dimensions": wanted}, MarkedWords(4))
    vector = np.array([[3.0, 4.0, 12.0]], np.float32)
    return task.finish(prepared, list(vector), {"dimensions": wanted})


@pytest.mark.parametrize("lengths", [True, [1, 2]])
def test_a_vector_that_may_be_cut_has_length_one_again(lengths):
    answer = cut(lengths, 2)
    assert answer.value == pytest.approx([0.6, 0.8]) and answer.metadata == {"dimensions": 2}


def test_the_whole_length_may_always_be_asked_for():
    assert cut(False, 3).value == cut(True, None).value == [3.0, 4.0, 12.0]


@pytest.mark.parametrize("width", [3, None])
@pytest.mark.parametrize(
    ("lengths", "wanted", "told"),
    [
        (False, 2, "the model's vectors have 3, and cannot be cut"),
        ([1, 2], 4, "have 3, or 1, 2"),
        (True, 4, "have 3, or 1 to 2"),
    ],
)
def test_other_lengths_are_refused(lengths, wanted, told, width):
    with pytest.raises(InvalidRequest, match=told):
        cut(lengths, wanted, width)


def test_lengths_are_whole_numbers():
    with pytest.raises(ValueError, match="dimensions must be true, false or a list of lengths"):
        Embed(dimensions=[0])
