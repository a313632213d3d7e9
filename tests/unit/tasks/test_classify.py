import json
import math
from pathlib import Path

import numpy as np
import pytest

from app.core.errors import CannotLoad, InvariantBroken
from app.core.tensors import Signature, TensorSpec
from app.tasks.classify import Classify, ClassifyScores, Head
from tests.unit.tasks.tokens import MarkedWords

LABELS = ["negative", "neutral", "positive"]
SHIPPED = Path(__file__).parents[3] / "app/models/assets/sentiment/head.json"


@pytest.fixture
def head_file(tmp_path):
    def write(**changes):
        head = {
            "labels": LABELS,
            "weights": [[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]],
            "bias": [0.0, -1.0, 0.0],
            "temperature": 1.0,
        }
        path = tmp_path / "head.json"
        path.write_text(json.dumps(head | changes))
        return str(path)

    return write


def classify(path, vector):
    task = Classify(head_file=path)
    prepared = task.prepare("some words", {"truncate": False}, MarkedWords())
    return task.finish(prepared, [np.array(vector, np.float32)], {})


def test_the_likeliest_label_is_the_result_and_its_chance_the_confidence(head_file):
    answer = classify(head_file(), [2.0, 0.0])

    total = math.exp(-2) + math.exp(-1) + math.exp(2)
    assert answer.value == "positive"
    assert answer.metadata["confidence"] == pytest.approx(math.exp(2) / total)
    assert answer.metadata["confidence"] == answer.metadata["scores"]["positive"]


def test_the_scores_name_every_label_and_sum_to_one(head_file):
    scores = classify(head_file(), [-0.3, 0.0]).metadata["scores"]

    assert list(scores) == LABELS
    assert sum(scores.values()) == pytest.approx(1.0)


def test_temperature_changes_how_sure_the_head_is_but_not_the_label(head_file):
    plain, warm = classify(head_file(), [2.0, 0]), classify(head_file(temperature=2.0), [2.0, 0])

    assert warm.value == plain.value
    assert warm.metadata["confidence"] < plain.metadata["confidence"]


def test_huge_logits_do_not_overflow(head_file):
    answer = classify(head_file(), [1e6, 0.0])

    assert answer.metadata["scores"] == {"negative": 0.0, "neutral": 0.0, "positive": 1.0}


def test_scores_of_a_row_do_not_depend_on_the_rows_beside_it(head_file):
    head = Head.load(head_file())
    vectors = np.random.default_rng(1).normal(size=(9, 2)).astype(np.float32)

    alone = np.concatenate([head.scores(vector[None]) for vector in vectors])

    assert np.abs(head.scores(vectors) - alone).max() < 1e-12


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0},
        {"labels": ["only"]},
        {"bias": [0.0]},
        {"weights": [[1.0], [2.0, 3.0], [4.0]]},
        {"weights": "many"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_head_that_does_not_add_up_is_refused_with_its_path(head_file, changes):
    path = head_file(**changes)

    with pytest.raises(ValueError, match="head.json"):
        Classify(head_file=path)


def test_a_file_that_is_not_json_is_refused(tmp_path):
    path = tmp_path / "head.json"
    path.write_bytes(b"\x80not json")

    with pytest.raises(ValueError, match="not a classification head"):
        Classify(head_file=str(path))


def test_the_shipped_head_fits_the_model_and_records_its_training():
    head = Head.load(SHIPPED)
    training = json.loads(SHIPPED.read_text())["training"]

    assert head.labels == tuple(LABELS)
    assert head.weights.shape == (3, 384)
    assert sum(training["texts"].values()) > 20_000
    assert training["held_out"]["all"]["accuracy"] > training["held_out"]["all"]["majority"]


def by_scores(logits, **options):
    parameters = options.pop("parameters", {})
    task = ClassifyScores(**{"labels": LABELS, **options})
    prepared = task.prepare("some words", {"truncate": False}, MarkedWords())
    return task.finish(prepared, [np.array(logits, np.float32)], parameters)


def test_a_models_own_scores_become_chances_that_sum_to_one():
    answer = by_scores([0.0, 2.0, 1.0])

    total = 1 + math.exp(2) + math.exp(1)
    assert answer.value == "neutral"
    assert answer.metadata["confidence"] == pytest.approx(math.exp(2) / total)
    assert sum(answer.metadata["scores"].values()) == pytest.approx(1.0)


def test_labels_that_are_right_or_wrong_by_themselves_are_each_between_0_and_1():
    answer = by_scores([3.0, 2.0, -1000.0], function="sigmoid")

    assert answer.value == "negative"
    assert answer.metadata["scores"] == {
        "negative": pytest.approx(1 / (1 + math.exp(-3))),
        "neutral": pytest.approx(1 / (1 + math.exp(-2))),
        "positive": 0.0,
    }


def test_top_k_shows_the_highest_scores_best_first(head_file):
    assert list(by_scores([0, 2, 1], parameters={"top_k": 2}).metadata["scores"]) == [
        "neutral",
        "positive",
    ]
    assert list(by_scores([0, 2, 1], parameters={"top_k": 9}).metadata["scores"]) == [
        "neutral",
        "positive",
        "negative",
    ]


def test_scores_that_are_no_numbers_are_not_answered():
    with pytest.raises(InvariantBroken):
        by_scores([math.nan, 0, 0])


def test_labels_must_be_as_many_as_the_models_scores():
    task = ClassifyScores(labels=LABELS)
    task.fit(Signature((), (TensorSpec("logits", "FP32", (None, 3)),)))

    with pytest.raises(CannotLoad, match="gives 5 scores; labels has 3"):
        task.fit(Signature((), (TensorSpec("logits", "FP32", (None, 5)),)))


@pytest.mark.parametrize(
    "options", [{"labels": []}, {"labels": ["a", "a"]}, {"labels": ["a"], "function": "argmax"}]
)
def test_labels_and_function_are_checked(options):
    with pytest.raises(ValueError):
        ClassifyScores(**options)
