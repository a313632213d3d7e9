"""The Open Inference Protocol by a whole server: tritonclient, the example, docs' curl."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.e2e.serving import ROOT, ServerProcess, catalog_with_caches

DOCUMENT = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
CURLS = [
    block.strip()
    for block in re.findall(r"```bash\n(.*?)```", DOCUMENT, re.DOTALL)
    if "localhost:8000/v2" in block
]
FLOWER = [[5.1, 3.5, 1.4, 0.2]]


def missing(*modules: str) -> str:
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


EXPORTS = missing("skl2onnx", "sklearn")
pytestmark = pytest.mark.skipif(bool(EXPORTS), reason=EXPORTS)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, list[float]]]:
    """The embedded models and the example's; and what scikit-learn itself says of a flower."""
    folder = tmp_path_factory.mktemp("iris")
    script = (
        "import json, pathlib, sys; sys.path.insert(0, 'examples/iris'); import export; "
        "pipeline = export.write(pathlib.Path(sys.argv[1])); "
        f"print(json.dumps(pipeline.predict_proba({FLOWER}).tolist()[0]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    both = yaml.safe_load(catalog_with_caches(tmp_path_factory.mktemp("both")).read_text("utf-8"))
    iris = yaml.safe_load((folder / "catalog.yaml").read_text("utf-8"))
    for part in ("artefacts", "models"):
        both[part] |= iris[part]
    (folder / "both.yaml").write_text(yaml.safe_dump(both, sort_keys=False), "utf-8")
    grpc = {} if missing("grpc") else {"GRPC_PORT": 0}
    server = ServerProcess(
        folder, MODEL_CATALOG=folder / "both.yaml", MODEL_CONTROL="explicit", **grpc
    )
    try:
        server.until_ready()
        yield server, json.loads(done.stdout.splitlines()[-1])
    finally:
        status = server.end()
    assert (status, server.other_lines) == (0, [])


def test_the_example_is_served_both_ways(served):
    server, chances = served
    tensor = {"name": "features", "shape": [1, 4], "datatype": "FP32", "data": FLOWER}
    v2 = server.client.post("/v2/models/iris/infer", json={"inputs": [tensor]}).json()
    own = server.client.post("/infer", json={"model": "iris", "inputs": {"features": FLOWER}})
    assert v2["outputs"][0]["data"] == own.json()["result"]["probabilities"]["data"]
    assert v2["outputs"][0]["data"] == pytest.approx(chances, abs=1e-5)


@pytest.mark.skipif(
    bool(missing("tritonclient", "grpc", "geventhttpclient")), reason="tritonclient is missing"
)
def test_tritonclient_finds_all_that_it_asks_for(served):
    server, chances = served
    port = server.wait_for(lambda event: event["event"] == "grpc_listening")["port"]
    scenario = Path(__file__).with_name("triton_scenario.py")
    addresses = [f"127.0.0.1:{server.port}", f"127.0.0.1:{port}"]
    command = [sys.executable, str(scenario), *addresses, json.dumps(chances)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    calls = json.loads(done.stdout)
    assert sum(calls.values()) >= 40, calls


@pytest.mark.skipif(
    bool(missing("tritonclient", "grpc", "geventhttpclient")), reason="tritonclient is missing"
)
def test_tritonclient_unloads_and_loads_models_while_one_is_asked(served):
    server, _ = served
    port = server.wait_for(lambda event: event["event"] == "grpc_listening")["port"]
    scenario = Path(__file__).with_name("triton_control.py")
    addresses = [f"127.0.0.1:{server.port}", f"127.0.0.1:{port}"]
    command = [sys.executable, str(scenario), *addresses, str(server.process.pid)]
    before = resident_bytes(server)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    unloaded = json.loads(done.stdout)["unloaded_bytes"]
    assert unloaded < before - 150 * 2**20, (before, unloaded)
    assert server.infer("generator", "The sky", max_new_tokens=4).status_code == 200


def resident_bytes(server: ServerProcess) -> int:
    children = psutil.Process(server.process.pid).children(recursive=True)
    total: int = sum(child.memory_info().rss for child in children)
    return total


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("block", CURLS, ids=lambda block: block.split("localhost:8000")[1][:30])
def test_each_curl_of_the_document_is_answered(served, block):
    server, _ = served
    command = block.replace("http://localhost:8000", server.url).replace("curl ", "curl -sSf ")
    done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
