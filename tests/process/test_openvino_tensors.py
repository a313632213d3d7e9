"""Any graph by tensors: the runtime, and a real worker behind the real HTTP server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.core.clock import MonotonicClock
from app.core.errors import CannotLoad, InvalidRequest
from app.core.tensors import Tensors
from app.models.registry import Deployment, Registry
from app.models.spec import Artefact, ModelSpec
from app.runtimes.base import StreamPlan
from app.runtimes.openvino_tensors import OpenVinoTensors
from app.services.inference_service import InferenceService
from app.services.model_service import ModelService
from app.workers.handle import WORKER_COMMAND
from app.workers.messages import HostedVersion, Load
from tests.api.serving import FakeServices, serving
from tests.fakes import a_load
from tests.process import graphs
from tests.process.workers import SupervisorBench


def runtime(path: str, **options: Any) -> OpenVinoTensors:
    return OpenVinoTensors({"model": path}, plan=StreamPlan(1, 1), **options)


def row(**arrays: Any) -> Tensors:
    return Tensors({name: np.array(array, np.float32) for name, array in arrays.items()})


def test_requests_are_run_one_below_the_other_and_taken_apart_again(tmp_path):
    model = runtime(graphs.doubled(tmp_path / "doubled.xml"))

    outputs = model.run([row(x=[[1, 2]]), row(x=[[3, 4], [5, 6]]), row(x=[[7, 8]])])

    assert model.batches
    assert [output["y"].tolist() for output in outputs] == [
        [[2, 5]],
        [[6, 9], [10, 13]],
        [[14, 17]],
    ]
    assert [output["n"].tolist() for output in outputs] == [[3], [7, 11], [15]]


def test_a_graph_whose_rows_are_not_independent_runs_requests_one_by_one(tmp_path):
    model = runtime(graphs.whole_mean(tmp_path / "mean.xml"))

    assert not model.batches
    assert model.group_of("same") != model.group_of("same")


def test_who_knows_better_may_say_what_the_first_dimension_is(tmp_path):
    path = graphs.doubled(tmp_path / "doubled.xml")

    assert runtime(path, batch=True).group_of("same") == "same"
    assert not runtime(path, batch=False).batches
    assert runtime(path).group_of(None) != runtime(path).group_of(None)


@pytest.mark.parametrize("plan", [StreamPlan(1, 1), StreamPlan(2, 1), StreamPlan(1, 2)])
def test_shapes_that_do_not_go_together_are_the_callers(tmp_path, plan):
    """With one thread the engine once said nothing, and gave the answer of the request before."""
    path = graphs.added(tmp_path / "added.xml")
    model = OpenVinoTensors({"model": path}, plan=plan)

    for number in (1, 2, 3):
        good = model.run([row(a=[[number, 0]], b=[[1, 1]])])
        with pytest.raises(InvalidRequest, match=r"together: a \[1, 2\], b \[1, 3\]"):
            model.run([row(a=[[1, 2]], b=[[1, 2, 3]])])
        assert good[0]["sum"].tolist() == [[number + 1, 1]]


def test_strings_go_in_and_out_of_a_graph_that_takes_them(tmp_path):
    model = runtime(graphs.with_text(tmp_path / "text.xml"))
    texts, index = np.array(["a", "bé", ""], object), np.array([1, 0, 2, 1])

    output = model.run([Tensors({"x": texts, "i": index})])[0]["y"]

    assert [spec.datatype for spec in model.signature.inputs] == ["BYTES", "INT64"]
    assert output.tolist() == ["bé", "a", "", "bé"]
    assert not model.batches


def test_types_that_the_protocol_does_not_name_are_refused_at_load(tmp_path):
    with pytest.raises(CannotLoad, match="small.xml: x is of type bf16"):
        runtime(graphs.with_small_floats(tmp_path / "small.xml"))


def load(path: str, name: str) -> Load:
    return a_load(
        artefact=name,
        files={"model": path},
        runtime="openvino_encoder",
        kind="tensors",
        versions=[HostedVersion(f"{name}:v1", "tensors", {}, {})],
    )


@asynccontextmanager
async def served(bench: SupervisorBench, *loads: Load) -> AsyncIterator[httpx.AsyncClient]:
    """The HTTP API over real workers."""
    deployments = []
    for one in loads:
        watched = await bench.ready(one, name=one.artefact, command=WORKER_COMMAND)
        spec = ModelSpec(
            one.artefact, "v1", "tensors", Artefact(one.artefact), "openvino_encoder", "tensors"
        )
        bench.metrics.add_version(spec.name, spec.version, one.artefact)
        deployments.append(Deployment(spec, watched.supervisor))
    registry = Registry(deployments)
    services = FakeServices()
    services.models = ModelService(registry)  # type: ignore[assignment]
    services.inference = InferenceService(  # type: ignore[assignment]
        registry,
        bench.metrics,
        MonotonicClock(),
        default_model=loads[0].artefact,
        max_text_chars=1000,
    )
    async with serving(services) as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=30) as client:
            yield client


async def error_of(client: httpx.AsyncClient, **body: Any) -> tuple[int, str]:
    response = await client.post("/infer", json=body)
    return response.status_code, response.json()["error"]["message"]


async def test_a_graph_is_served_by_name_from_http_to_the_worker_and_back(
    supervised: SupervisorBench, tmp_path: Path
):
    doubled = load(graphs.doubled(tmp_path / "doubled.xml"), "doubled")
    added = load(graphs.added(tmp_path / "added.xml"), "added")
    async with served(supervised, doubled, added) as client:
        x = {"datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}
        answer = (await client.post("/infer", json={"inputs": {"x": x}})).json()
        assert answer["result"] == {
            "y": {"datatype": "FP32", "shape": [2, 2], "data": [2.0, 5.0, 6.0, 9.0]},
            "n": {"datatype": "INT64", "shape": [2], "data": [3, 7]},
        }
        assert (answer["model_used"], answer["metadata"]["model_type"]) == ("doubled:v1", "tensors")

        shown, _ = (await client.get("/models")).json()["models"]
        assert shown["versions"][0]["max_input_tokens"] is None
        assert shown["versions"][0]["signature"] == {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
            "outputs": [
                {"name": "y", "datatype": "FP32", "shape": [-1, 2]},
                {"name": "n", "datatype": "INT64", "shape": [-1]},
            ],
        }

        entries = [{"inputs": {"x": [[n, n]]}, "parameters": {"outputs": ["n"]}} for n in range(20)]
        many = (await client.post("/infer/batch", json={"requests": entries})).json()
        assert [one["result"]["n"]["data"] for one in many["results"]] == [
            [2 * n] for n in range(20)
        ]

        assert await error_of(client, text="hello") == (
            422,
            "text is not what doubled:v1 takes; send inputs: named tensors; /models shows their "
            "types and shapes",
        )
        status, message = await error_of(client, inputs={"x": [[1, 2, 3]]})
        assert (status, message[:14]) == (422, "inputs.x.shape")
        status, message = await error_of(client, model="added", inputs={"a": [[-1]], "b": [[0]]})
        assert (status, message) == (
            422,
            "outputs.log has NaN or Infinity for these inputs, which JSON cannot hold",
        )
        status, message = await error_of(
            client, model="added", inputs={"a": [[1, 2]], "b": [[0, 1, 2]]}
        )
        assert status == 422 and "together: a [1, 2], b [1, 3]" in message


async def test_lists_nested_as_deep_as_json_allows_harm_nobody(
    supervised: SupervisorBench, tmp_path: Path
):
    async with served(supervised, load(graphs.doubled(tmp_path / "d.xml"), "doubled")) as client:
        headers = {"Content-Type": "application/json"}
        for depth in (40, 100, 400, 900):
            body = b'{"inputs": {"x": %s1%s}}' % (b"[" * depth, b"]" * depth)
            answer = await client.post("/infer", content=body, headers=headers)
            assert answer.status_code in (400, 422), answer.text
        big = b'{"inputs": {"x": [[%d, 1]]}}' % 2**70
        refused = await client.post("/infer", content=big, headers=headers)
        assert refused.json()["error"]["message"] == "inputs holds an integer beyond 64 bits"
        fine = await client.post("/infer", json={"inputs": {"x": [[1, 2]]}})
        assert fine.json()["result"]["n"]["data"] == [3]
