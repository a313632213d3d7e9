"""Plain exports beside their originals in torch, alone and in a batch."""

from pathlib import Path

import numpy as np
import pytest

from app.runtimes.base import StreamPlan
from app.runtimes.openvino_encoder import OpenVinoEncoder, OpenVinoScorer
from app.tasks.classify import softmax
from app.tasks.rerank import Rerank
from tests.hub import encoders
from tests.hub.encoders import WORDS, Exported

pytestmark = pytest.mark.timeout(180)

PLAN = StreamPlan(1, 1)
LENGTHS = (1, 2, 5, 9, 14, 15, 17, 30, 47, 61, 100)


def text(words: int, start: int = 0) -> str:
    return " ".join(WORDS[(start + 7 * index) % len(WORDS)] for index in range(words))


TEXTS = [text(words, start) for start, words in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return encoders.roberta(tmp_path_factory.mktemp("roberta"))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return encoders.bert_embedder(tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module", params=["bert_reranker", "reranker"])
def reranker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder: Path = tmp_path_factory.mktemp(request.param)
    exported: Exported = getattr(encoders, request.param)(folder)
    return exported


def scorer(exported: Exported, precision: str) -> OpenVinoScorer:
    return OpenVinoScorer(exported.files(precision), plan=PLAN, max_tokens=128, precision=precision)


def chances(logits):
    return softmax(np.asarray(logits, np.float64))


def test_scores_of_an_fp32_export_are_those_of_the_original(roberta):
    runtime = scorer(roberta, "fp32")

    ours = runtime.run(runtime.tokenizer.encode(TEXTS))

    theirs = np.concatenate([output.logits.numpy() for output in roberta.outputs(*TEXTS)])
    assert np.abs(ours - theirs).max() < 1e-4
    assert theirs.std(axis=0).min() > 0.05, "these texts are all alike to the model"


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("int8", 0.0)])
def test_a_text_is_scored_alone_as_beside_longer_and_shorter_ones(roberta, precision, bound):
    """Quantised, chances once differed by 0.004 on a full-size model."""
    runtime = scorer(roberta, precision)
    rows = runtime.tokenizer.encode(TEXTS)
    alone = chances(np.concatenate([runtime.run([row]) for row in rows]))

    for batch in (range(len(rows)), [0, 10], [1, 2, 3], [5, 6], [3, 8, 9]):
        together = chances(runtime.run([rows[index] for index in batch]))

        assert np.abs(together - alone[list(batch)]).max() <= bound


def test_quantised_scores_are_close_to_the_originals(roberta):
    runtime = scorer(roberta, "int8")

    ours = chances(runtime.run(runtime.tokenizer.encode(TEXTS)))

    theirs = chances(np.concatenate([o.logits.numpy() for o in roberta.outputs(*TEXTS)]))
    assert np.abs(ours - theirs).max() < 0.05


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_leaves_padding_out(embedder, pooling, normalize):
    runtime = OpenVinoEncoder(
        embedder.files("fp32"),
        plan=PLAN,
        max_tokens=128,
        pooling=pooling,
        normalize=normalize,
        precision="fp32",
    )

    ours = runtime.run(runtime.tokenizer.encode(TEXTS))

    hidden = [output.last_hidden_state[0].numpy() for output in embedder.outputs(*TEXTS)]
    pool = {"mean": lambda h: h.mean(axis=0), "cls": lambda h: h[0], "last": lambda h: h[-1]}
    theirs = np.stack([pool[pooling](tokens) for tokens in hidden])
    if normalize:
        theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    assert np.abs(ours - theirs).max() < 1e-4


def test_quantised_vectors_are_the_same_alone_and_in_a_batch(embedder):
    runtime = OpenVinoEncoder(embedder.files("int8"), plan=PLAN, max_tokens=128)
    rows = runtime.tokenizer.encode(TEXTS)

    alone = np.concatenate([runtime.run([row]) for row in rows])

    assert np.array_equal(runtime.run(rows), alone)


def test_documents_are_scored_as_the_original_scores_pairs(reranker):
    runtime, task = scorer(reranker, "fp32"), Rerank(function="none")
    documents = [text(words, start) for start, words in enumerate((3, 40, 9, 1))]
    given = {"documents": documents, "return_documents": True}
    prepared = task.prepare(text(4, 50), given, runtime.tokenizer)

    outputs = runtime.run(prepared.rows, [prepared.settings_of(i) for i in range(4)])
    answer = task.finish(prepared, list(outputs), given)

    pairs = [(text(4, 50), document) for document in documents]
    theirs = [float(output.logits) for output in reranker.outputs(*pairs)]
    ours = {entry["index"]: entry["score"] for entry in answer.value}
    assert [ours[index] for index in range(4)] == pytest.approx(theirs, abs=1e-4)
    assert [entry["index"] for entry in answer.value] == list(np.argsort(theirs)[::-1])
    assert all(entry["document"] == documents[entry["index"]] for entry in answer.value)


def test_a_cut_document_is_cut_as_transformers_cuts_the_second_text(reranker):
    runtime = scorer(reranker, "fp32")
    query, document = text(5), text(200, 3)

    prepared = Rerank().prepare(
        query, {"documents": [document], "truncate": True}, runtime.tokenizer
    )

    theirs = reranker.tokenizer(query, document, truncation="only_second", max_length=128)
    assert list(prepared.rows[0]) == theirs["input_ids"]
