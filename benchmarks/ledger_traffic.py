"""Calls of the hour that benchmarks/ledger_hour.py replays: what is asked, and what usage an answer
tells."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from benchmarks.harness import WORDS
from benchmarks.ledger_judge import Tokens

MOST_NEW = 24  # tokens of any text that is generated
Json = dict[str, Any]


class Manner(StrEnum):
    """How a client asks."""

    WHOLE = "whole"  #: and waits for the answer
    STREAM = "stream"  #: and reads it to its end
    LEAVE = "leave"  #: and is gone before the end
    JOB = "job"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Call:
    """key: a name. at: simulated seconds. patience_s: of who leaves."""

    at: float
    key: str
    manner: Manner
    path: str
    body: Json
    patience_s: float = 0.0


def usage_of(answer: Json) -> list[tuple[str, Tokens]]:
    """By model, as an answer of any route tells it; what failed tells none."""
    if "results" in answer:
        return [used for each in answer["results"] for used in usage_of(each)]
    if not answer.get("success", True):
        return []
    if "model_used" in answer:
        usage = answer["metadata"]["usage"]
        tokens = Tokens(usage["input_tokens"], usage["output_tokens"])
        return [(_name(answer["model_used"]), tokens)]
    usage = answer["usage"]
    tokens = Tokens(usage["prompt_tokens"], usage.get("completion_tokens", 0))
    return [(_name(answer["model"]), tokens)]


def most_of(answer: Json) -> list[tuple[str, Tokens]]:
    """What a request may have used that was answered to nobody. answer: to an equal one."""
    return [
        (model, Tokens(used.input, MOST_NEW if model == "generator" else used.output))
        for model, used in usage_of(answer)
    ]


def _name(key: str) -> str:
    return key.partition(":")[0]


class Traffic:
    """Poisson arrivals at `rate` per simulated second, of kinds that are drawn by chance.

    leaver: the key of all who leave before the end, so that of the others only kills are unsure.
    """

    def __init__(self, keys: Sequence[str], leaver: str, rate: float, seed: int) -> None:
        self._keys = keys
        self._leaver = leaver
        self._rate = rate
        self._chance = random.Random(seed)
        self._kinds = {
            self._one: 30,
            self._many: 12,
            self._embeddings: 14,
            self._chat: 8,
            self._chat_stream: 8,
            self._wrong: 6,
            self._leave: 5,
            self._leave_stream: 4,
            self._job: 8,
            self._long_job: 2,
            self._batch: 0.4,
        }

    def calls(self, seconds: float) -> Iterator[Call]:
        at = self._chance.expovariate(self._rate)
        while at < seconds:
            (make,) = self._chance.choices(list(self._kinds), list(self._kinds.values()))
            manner, path, body = make()
            patience_s = self._chance.uniform(0.005, 0.4)
            key = self._leaver if manner is Manner.LEAVE else self._chance.choice(self._keys)
            yield Call(at, key, manner, path, body, patience_s)
            at += self._chance.expovariate(self._rate)

    def _text(self, least: int = 3, most: int = 40) -> str:
        """One in ten is the same for all."""
        if self._chance.random() < 0.1:
            return "the service was slow but food came hot"
        return " ".join(self._chance.choices(WORDS, k=self._chance.randint(least, most))) + "."

    def _entry(self) -> Json:
        model = self._chance.choice(
            ["sentiment", "sentiment", "embedder", "summarizer", "generator"]
        )
        if model == "summarizer":
            return {"model": model, "text": " ".join(self._text() for _ in range(6))}
        if model == "generator":
            return {"model": model, "text": self._text(), "parameters": {"max_new_tokens": 16}}
        return {"model": model, "text": self._text()}

    def _one(self) -> tuple[Manner, str, Json]:
        return Manner.WHOLE, "/infer", self._entry()

    def _many(self) -> tuple[Manner, str, Json]:
        """Now and then with one that fails alone."""
        entries = [self._entry() for _ in range(self._chance.randint(2, 8))]
        if self._chance.random() < 0.3:
            entries.append({"model": "sentiment", "text": "x", "parameters": {"no": 1}})
        return Manner.WHOLE, "/infer/batch", {"requests": entries}

    def _embeddings(self) -> tuple[Manner, str, Json]:
        texts = [self._text() for _ in range(self._chance.randint(1, 6))]
        return Manner.WHOLE, "/v1/embeddings", {"model": "embedder", "input": texts}

    def _conversation(self) -> Json:
        return {
            "model": "generator",
            "messages": [{"role": "user", "content": self._text()}],
            "max_tokens": self._chance.randint(4, MOST_NEW),
        }

    def _chat(self) -> tuple[Manner, str, Json]:
        return Manner.WHOLE, "/v1/chat/completions", self._conversation()

    def _chat_stream(self) -> tuple[Manner, str, Json]:
        return Manner.STREAM, "/v1/chat/completions", self._conversation()

    def _wrong(self) -> tuple[Manner, str, Json]:
        wrong: list[tuple[str, Json]] = [
            ("/infer", {"model": "nobody", "text": "x"}),
            ("/infer", {"model": "generator", "text": "word " * 4000}),
            ("/v1/embeddings", {"model": "embedder", "input": ["a", ""]}),
            ("/v1/chat/completions", {"model": "generator", "messages": []}),
        ]
        return Manner.WHOLE, *self._chance.choice(wrong)

    def _leave(self) -> tuple[Manner, str, Json]:
        return Manner.LEAVE, "/infer/batch", {"requests": [self._entry() for _ in range(4)]}

    def _leave_stream(self) -> tuple[Manner, str, Json]:
        return Manner.LEAVE, "/v1/chat/completions", {**self._conversation(), "stream": True}

    def _job(self) -> tuple[Manner, str, Json]:
        return Manner.JOB, "/infer", self._entry()

    def _long_job(self) -> tuple[Manner, str, Json]:
        return Manner.JOB, "/infer/batch", {"requests": [self._entry() for _ in range(20)]}

    def _batch(self) -> tuple[Manner, str, Json]:
        texts = [self._text() for _ in range(150)]
        return Manner.BATCH, "/v1/embeddings", {"model": "embedder", "input": texts}
