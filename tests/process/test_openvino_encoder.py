"""Encoders over graphs of our own making; tests/hub has the exporters'."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from app.core.errors import CannotLoad
from app.core.inference import Pair
from app.runtimes.base import StreamPlan
from app.runtimes.openvino_encoder import OpenVinoEncoder, OpenVinoScorer
from app.workers.handle import WORKER_COMMAND
from app.workers.messages import HostedVersion
from tests.process import graphs
from tests.process.graphs import WORDS
from tests.process.workers import LOAD_S, Bench, load, value_of

PLAN = StreamPlan(1, 1)
LENGTHS = (1, 3, 7, 14, 15, 16, 29, 50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    graphs.tokenizer(folder / "tokenizer.json")
    graphs.encoder(folder / "vectors.xml")
    graphs.encoder(folder / "scores.xml", labels=3)
    graphs.encoder(folder / "scores-fp32.xml", labels=3, int8=False)
    return folder


def files(folder: Path, model: str) -> dict[str, str]:
    return {"model": str(folder / model), "tokenizer": str(folder / "tokenizer.json")}


def rows_of(runtime):
    return runtime.tokenizer.encode(
        [" ".join(WORDS[(3 * n + i) % len(WORDS)] for i in range(n)) for n in LENGTHS]
    )


@pytest.mark.parametrize(
    ("model", "precision", "bound"),
    [("scores.xml", "int8", 0.0), ("scores-fp32.xml", "fp32", 1e-5)],
)
def test_a_row_is_scored_alone_as_beside_others(folder, model, precision, bound):
    runtime = OpenVinoScorer(files(folder, model), plan=PLAN, max_tokens=64, precision=precision)
    rows = rows_of(runtime)
    alone = np.concatenate([runtime.run([row]) for row in rows])

    assert alone.shape == (len(LENGTHS), 3)
    assert alone.std(axis=0).min() > 0.01
    for batch in (range(len(rows)), [0, 7], [2, 3, 4], [5, 1]):
        assert np.abs(runtime.run([rows[i] for i in batch]) - alone[list(batch)]).max() <= bound


def test_a_pair_is_run_with_two_types_of_tokens_beside_single_texts(folder):
    runtime = OpenVinoScorer(files(folder, "scores.xml"), plan=PLAN, max_tokens=64)
    (pair,) = runtime.tokenizer.encode_pairs([("w1 w2", "w3 w4 w5")])
    (single,) = runtime.tokenizer.encode(["w9"])

    assert pair.ids == [1, 5, 6, 2, 7, 8, 9, 2]
    assert (pair.second_start, pair.second_end, pair.pair) == (4, 7, Pair(4))
    as_pair, beside = runtime.run([pair.ids, single], [pair.pair, None])
    assert np.array_equal(runtime.run([single])[0], beside)
    assert np.array_equal(runtime.run([pair.ids], [pair.pair])[0], as_pair)
    assert np.abs(runtime.run([pair.ids])[0] - as_pair).max() > 0.01
    assert runtime.group_of(pair.pair) == runtime.group_of(None)


def test_vectors_are_pooled_as_asked(folder):
    def vectors(**options):
        runtime = OpenVinoEncoder(
            files(folder, "vectors.xml"), plan=PLAN, max_tokens=64, precision="fp32", **options
        )
        return runtime.run(rows_of(runtime))

    mean, cls, last = (vectors(pooling=name, normalize=False) for name in ("mean", "cls", "last"))

    assert mean.shape == (len(LENGTHS), graphs.WIDTH)
    assert np.allclose(vectors(normalize=False), mean)
    assert min(np.abs(mean - cls).max(), np.abs(mean - last).max(), np.abs(cls - last).max()) > 0.1
    assert np.allclose(vectors(), mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "pooling is 'max'; known: mean, cls, last"),
        ({"precision": "int3"}, "precision is 'int3'; known: int8, fp32"),
    ],
)
def test_options_that_do_not_exist_are_refused(folder, options, message):
    with pytest.raises(CannotLoad, match=message):
        OpenVinoEncoder(files(folder, "vectors.xml"), plan=PLAN, max_tokens=64, **options)


def test_a_graph_of_another_kind_is_refused_by_what_it_lacks(folder, tmp_path):
    graphs.doubled(tmp_path / "doubled.xml")
    graphs.encoder(tmp_path / "fixed.xml", fixed=True)
    given = files(folder, "vectors.xml")

    with pytest.raises(CannotLoad, match="vectors.xml: no output `logits`"):
        OpenVinoScorer(given, plan=PLAN, max_tokens=64)
    with pytest.raises(CannotLoad, match="doubled.xml: inputs .'x'. are unknown"):
        OpenVinoEncoder({**given, "model": str(tmp_path / "doubled.xml")}, plan=PLAN, max_tokens=64)
    with pytest.raises(CannotLoad, match="fixed.xml: input input_ids has the shape"):
        OpenVinoEncoder({**given, "model": str(tmp_path / "fixed.xml")}, plan=PLAN, max_tokens=64)


def test_a_broken_file_is_refused_by_name(folder, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    given = files(folder, "vectors.xml")

    with pytest.raises(CannotLoad, match="broken.json is no tokenizer"):
        OpenVinoEncoder({**given, "tokenizer": str(broken)}, plan=PLAN, max_tokens=64)
    with pytest.raises(CannotLoad, match="broken.json"):
        OpenVinoEncoder({**given, "model": str(broken)}, plan=PLAN, max_tokens=64)


async def test_a_worker_ranks_documents_and_refuses_the_version_whose_labels_do_not_fit(
    bench: Bench, folder: Path
):
    graphs.encoder(folder / "ranker.xml", labels=1)
    message = msgspec.structs.replace(
        load("openvino_encoder", bench.folder, max_tokens=64),
        kind="scores",
        files=files(folder, "ranker.xml"),
        versions=[
            HostedVersion("ranker:v1", "rerank", {"function": "none"}, {}),
            HostedVersion("mood:v1", "classify", {"labels": ["good", "bad"]}, {}),
        ],
    )
    handle = bench.handle(message, WORKER_COMMAND)
    loaded = await handle.start(LOAD_S)
    documents = [" ".join(WORDS[n : n + n]) for n in (3, 20, 8)]
    parameters: dict[str, Any] = dict(documents=documents, return_documents=True, top_n=2)

    ranked = value_of(await handle.ask("w1 w2", version="ranker:v1", **parameters))

    assert loaded.refused == {"mood:v1": "the model gives 1 scores; labels has 2"}
    runtime = OpenVinoScorer(files(folder, "ranker.xml"), plan=PLAN, max_tokens=64)
    pairs = runtime.tokenizer.encode_pairs([("w1 w2", document) for document in documents])
    scores = [float(runtime.run([pair.ids], [pair.pair])[0, 0]) for pair in pairs]
    order = sorted(range(3), key=lambda index: -scores[index])[:2]
    assert ranked == [
        {"index": index, "score": scores[index], "document": documents[index]} for index in order
    ]
