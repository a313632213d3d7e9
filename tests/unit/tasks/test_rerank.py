import math
from collections.abc import Sequence

import numpy as np
import pytest

from app.core.errors import CannotLoad, InputTooLong, InvalidRequest
from app.core.inference import EncodedPair, Pair
from app.core.parameters import resolve
from app.core.tensors import Signature, TensorSpec
from app.tasks.catalogue import task_info
from app.tasks.rerank import Rerank
from tests.unit.tasks.tokens import END, START, MarkedWords

DOCUMENTS = ["one two", "three", "four five six"]


class MarkedPairs(MarkedWords):
    """START query END document END, the document's tokens of the second type."""

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[EncodedPair]:
        return [self._pair(*self.encode(pair)) for pair in pairs]

    def _pair(self, query: list[int], document: list[int]) -> EncodedPair:
        ids = [*query, *document[1:]]
        return EncodedPair(ids, len(query), len(ids) - 1, Pair(len(query)))


def prepare(text="which", max_tokens=16, **given):
    parameters = resolve(task_info("rerank", "scores").parameters, given)
    return Rerank().prepare(text, parameters, MarkedPairs(max_tokens))


def rerank(scores, task=None, **given):
    parameters = resolve(
        task_info("rerank", "scores").parameters, {"documents": DOCUMENTS, **given}
    )
    task = task or Rerank()
    prepared = task.prepare("which", parameters, MarkedPairs())
    return task.finish(prepared, [np.array([score], np.float32) for score in scores], parameters)


def test_documents_come_back_by_score_best_first():
    answer = rerank([0.0, 2.0, -1.0])

    assert [entry["index"] for entry in answer.value] == [1, 0, 2]
    assert [entry["score"] for entry in answer.value] == pytest.approx(
        [1 / (1 + math.exp(-2)), 0.5, 1 / (1 + math.exp(1))]
    )
    assert answer.metadata == {"documents": 3}
    assert answer.usage.input_tokens == (3 + 3) + (3 + 2) + (3 + 4)


def test_equal_scores_keep_the_order_of_the_request():
    assert [entry["index"] for entry in rerank([1.0, 1.0, 1.0]).value] == [0, 1, 2]


def test_top_n_and_the_documents_themselves_are_given_on_request():
    assert rerank([0, 1, 2], top_n=1, return_documents=True).value == [
        {"index": 2, "score": pytest.approx(1 / (1 + math.exp(-2))), "document": "four five six"}
    ]


def test_without_a_function_scores_are_the_models_own_numbers():
    scores = [entry["score"] for entry in rerank([-3, 0.25, 7], Rerank(function="none")).value]

    assert scores == [7.0, 0.25, -3.0]


def test_each_document_is_a_row_that_says_where_the_second_text_begins():
    prepared = prepare(documents=["one two", "x"])

    assert prepared.rows == ([START, 15, END, 13, 13, END], [START, 15, END, 11, END])
    assert [prepared.settings_of(index) for index in range(2)] == [Pair(3), Pair(3)]


def test_a_document_that_is_too_long_is_refused_by_its_index():
    with pytest.raises(InputTooLong, match=r"documents\.1 and text have 8 tokens.*at most 6"):
        prepare(documents=["a", "b b b b"], max_tokens=6)


def test_truncate_cuts_the_document_and_keeps_the_marks():
    prepared = prepare(documents=["a", "b bb bbb bbbb"], max_tokens=6, truncate=True)

    assert prepared.rows[1] == [START, 15, END, 11, 12, END]
    assert Rerank().finish(prepared, [np.zeros(1)] * 2, {}).metadata["truncated_documents"] == 1


def test_a_query_that_leaves_no_room_for_a_document_is_refused_whatever_may_be_cut():
    with pytest.raises(InputTooLong, match="shorten text"):
        prepare(text="a b c d", documents=["b"], max_tokens=6, truncate=True)


@pytest.mark.parametrize("given", [{}, {"documents": []}], ids=["missing", "empty"])
def test_there_must_be_something_to_rank(given):
    with pytest.raises(InvalidRequest, match=r"parameters\.documents is missing or empty"):
        prepare(**given)


def test_at_most_256_documents_are_taken():
    with pytest.raises(InvalidRequest, match="257 entries, at most 256"):
        prepare(documents=["a"] * 257)


def test_a_model_with_several_scores_is_no_reranker():
    scores = TensorSpec("logits", "FP32", (None, 3))

    with pytest.raises(CannotLoad, match="3 scores for a pair"):
        Rerank().fit(Signature((), (scores,)))
