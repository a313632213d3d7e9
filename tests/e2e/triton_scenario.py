"""tritonclient, over HTTP and gRPC, through everything that we serve of its protocol.

A program of its own: tritonclient registers the protocol's messages under the names of ours, which
one process cannot hold twice. Arguments: HTTP and gRPC address, and the chances that iris gives for
the first flower, as JSON. Prints how many calls were made.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException

FLOWER = np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)


class Counting:
    """A client that counts its calls."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        self.calls += 1
        return getattr(self._client, name)


def texts(lib: Any, *given: str, name: str = "text", **options: Any) -> Any:
    tensor = lib.InferInput(name, [len(given)], "BYTES")
    tensor.set_data_from_numpy(np.array([g.encode() for g in given], object), **options)
    return tensor


def flowers(lib: Any, array: Any, **options: Any) -> Any:
    tensor = lib.InferInput("features", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array, **options)
    return tensor


def refusal(call: Any, *args: Any, **options: Any) -> InferenceServerException:
    try:
        call(*args, **options)
    except InferenceServerException as refused:
        return refused
    raise AssertionError("not refused")


def words(array: Any) -> list[str]:
    """Of bytes, or of strings where they came as JSON."""
    return [each.decode() if isinstance(each, bytes) else each for each in array.tolist()]


def ways(lib: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Options of inputs and of outputs: HTTP has both in JSON and in bytes."""
    if lib is over_grpc:
        yield {}, {}
        return
    for as_bytes in (False, True):
        for back_as_bytes in (False, True):
            yield {"binary_data": as_bytes}, {"binary_data": back_as_bytes}


def shows_itself(client: Any, options: dict[str, Any]) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("sentiment") and client.is_model_ready("sentiment", "v1")
    server = client.get_server_metadata(**options)
    assert server["name"] == "ai-inference-backend"
    assert "binary_tensor_data" in server["extensions"]
    iris = client.get_model_metadata("iris", **options)
    assert [tensor["name"] for tensor in iris["inputs"]] == ["features"]
    assert [int(size) for size in iris["inputs"][0]["shape"]] == [-1, 4]
    text = client.get_model_metadata("embedder", "v1", **options)
    assert text["inputs"][0]["datatype"] == "BYTES"
    index = client.get_model_repository_index(**options)
    models = index["models"] if isinstance(index, dict) else index
    assert {model["state"] for model in models} == {"READY"}


def infers(lib: Any, client: Any, chances: list[float]) -> None:
    for given, back in ways(lib):
        wanted = [lib.InferRequestedOutput("probabilities", **back)]
        answer = client.infer("iris", [flowers(lib, FLOWER, **given)], outputs=wanted)
        assert np.allclose(answer.as_numpy("probabilities"), [chances], atol=1e-5)
        wanted = [lib.InferRequestedOutput(name, **back) for name in ("label", "score")]
        answer = client.infer(
            "sentiment",
            [texts(lib, "I love it! It works perfectly.", "This is terrible, I hate it.", **given)],
            outputs=wanted,
        )
        assert words(answer.as_numpy("label")) == ["positive", "negative"]
        assert (answer.as_numpy("score") > 0.4).all()
    many = np.repeat(FLOWER, 50, axis=0)
    assert client.infer("iris", [flowers(lib, many)]).as_numpy("probabilities").shape == (50, 3)
    vectors = client.infer("embedder", [texts(lib, "a b", "c")]).as_numpy("embedding")
    assert (vectors.shape, vectors.dtype) == ((2, 384), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    summary = client.infer("summarizer", [texts(lib, "One. Two. Three.")], request_id="mine")
    assert summary.as_numpy("text").shape == (1,) and "mine" in str(summary.get_response())
    options = {"parameters": {"max_new_tokens": 4, "seed": 1, "stop": "."}, "priority": 1}
    both = [client.infer("generator", [texts(lib, "The sky")], **options) for _ in range(2)]
    assert both[0].as_numpy("text").tolist() == both[1].as_numpy("text").tolist()
    assert 1 <= both[0].as_numpy("output_tokens")[0] <= 4


def is_refused(lib: Any, client: Any) -> None:
    good = [flowers(lib, FLOWER)]
    assert "does not exist" in str(refusal(client.infer, "missing", good))
    assert "no version" in str(refusal(client.infer, "iris", good, model_version="v9"))
    assert "the model takes" in str(refusal(client.infer, "iris", [flowers(lib, FLOWER[:, :3])]))
    assert "the model takes: text" in str(refusal(client.infer, "sentiment", good))
    assert "is blank" in str(refusal(client.infer, "sentiment", [texts(lib, " ")]))
    unknown = refusal(client.infer, "iris", good, outputs=[lib.InferRequestedOutput("z")])
    assert "outputs.z is unknown" in str(unknown)
    assert "is unknown" in str(refusal(client.infer, "iris", good, parameters={"nope": 1}))
    late = refusal(client.infer, "generator", [texts(lib, "The sky")], timeout=1)
    assert late.status() in ("504", "429", "StatusCode.DEADLINE_EXCEEDED") or (
        "RESOURCE_EXHAUSTED" in late.status()
    )
    assert "catalog" in str(refusal(client.load_model, "iris", config="{}"))
    assert "does not exist" in str(refusal(client.unload_model, "missing"))


def main(http: str, grpc: str, chances: str) -> None:
    calls = {}
    for lib, address, options in ((over_http, http, {}), (over_grpc, grpc, {"as_json": True})):
        inner = lib.InferenceServerClient(address)
        client = Counting(inner)
        shows_itself(client, options)
        infers(lib, client, json.loads(chances))
        is_refused(lib, client)
        calls[lib.__name__] = client.calls
        inner.close()
    sys.stdout.write(json.dumps(calls))


if __name__ == "__main__":
    main(*sys.argv[1:])
