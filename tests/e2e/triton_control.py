"""tritonclient unloads models, one while it writes, and loads them again, over HTTP and gRPC.

A program of its own, as triton_scenario.py. Arguments: HTTP and gRPC address, and the server's
process. Prints how much memory its children held while the generator was unloaded, as JSON.
"""

import json
import sys
import threading
import time
from typing import Any

import numpy as np
import psutil
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException

MODEL, TOKENS = "generator", 60


def story(lib: Any) -> Any:
    tensor = lib.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"1, 2, 3, 4, 5, 6,"], object))
    return tensor


class Asking(threading.Thread):
    """A generation that takes a while, by a client of its own."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self.tokens = 0

    def run(self) -> None:
        client = over_grpc.InferenceServerClient(self._address)
        parameters = {"max_new_tokens": TOKENS, "temperature": "0"}
        answer = client.infer(MODEL, [story(over_grpc)], parameters=parameters)
        self.tokens = int(answer.as_numpy("output_tokens")[0])
        client.close()


def workers(server: psutil.Process) -> dict[int, int]:
    """Resident bytes by pid."""
    return {
        child.pid: child.memory_info().rss
        for child in server.children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE
    }


def entry_of(client: Any, model: str) -> tuple[str, str]:
    """State and reason by the index that HTTP gives."""
    index = client.get_model_repository_index()
    (found,) = [(each["state"], each["reason"]) for each in index if each["name"] == model]
    return found


def wait_until_accepted(server: psutil.Process) -> None:
    """The generator computes: no other worker is asked anything."""
    before = sum(child.cpu_times().user for child in server.children())
    ends = time.monotonic() + 30
    while sum(child.cpu_times().user for child in server.children()) < before + 0.3:
        assert time.monotonic() < ends, "the generation was never begun"
        time.sleep(0.02)


def refused(infer: Any) -> str:
    try:
        infer()
    except InferenceServerException as error:
        return str(error)
    raise AssertionError("an unloaded model answered")


def main(http: str, grpc: str, pid: str) -> None:
    server = psutil.Process(int(pid))
    client = over_http.InferenceServerClient(http)
    other = over_grpc.InferenceServerClient(grpc)
    running = workers(server)
    asking = Asking(grpc)
    asking.start()
    wait_until_accepted(server)
    client.unload_model(MODEL)
    asking.join()
    assert asking.tokens == TOKENS, "what was accepted was not finished"
    left = workers(server)
    assert len(left) == len(running) - 1
    for each in (client, other):
        assert not each.is_model_ready(MODEL) and each.is_server_ready()
    assert entry_of(client, MODEL) == ("UNAVAILABLE", "unloaded")
    assert "generator:v1 is unloaded" in refused(lambda: client.infer(MODEL, [story(over_http)]))
    other.unload_model("iris")
    assert len(workers(server)) == len(running) - 2
    client.load_model("iris")
    other.load_model(MODEL)
    for model in (MODEL, "iris"):
        assert client.is_model_ready(model) and entry_of(client, model) == ("READY", "")
    assert len(workers(server)) == len(running)
    client.infer(MODEL, [story(over_http)], parameters={"max_new_tokens": 1})
    client.close()
    other.close()
    sys.stdout.write(json.dumps({"unloaded_bytes": sum(left.values())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
