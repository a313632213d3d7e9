"""Everything that can be wrong with a checkpoint, at once, beside one that is right."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.serving import ServerProcess
from tests.processes import until
from tests.hub import checkpoints
from tests.process.hub_server import HubServer

HUGE = 10**15
SETTLED_S = 180.0


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[HubServer]:
    folder = tmp_path_factory.mktemp("hub") / "org"
    checkpoints.tiny_roberta(folder / "good")
    checkpoints.tiny_roberta(folder / "pickle", weights="pickle")
    for name in ("cut", "swapped", "headless", "huge", "damaged"):
        checkpoints.tiny_roberta(folder / name)
    strange = checkpoints.tiny_roberta(folder / "strange") / "config.json"
    strange.write_text(strange.read_text().replace('"roberta"', '"strangeformer"'))
    checkpoints.tiny_gpt2(folder / "decoder")
    (folder / "headless" / "config.json").unlink()
    weights = folder / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with HubServer(folder.parent) as server:
        server.cut("org/cut/model.safetensors", 1000)
        server.serve_instead("org/swapped/model.safetensors", b"x" * 100)
        server.claim("org/huge/model.safetensors", HUGE)
        server.refuse("org/private", 401)
        server.refuse("org/busy", 429, Retry_After="1")
        yield server


REASONS = {
    "pickle": r"pickle.*allow_pickle: true",
    "cut": r"download of model.safetensors broke off after \d+ of \d+ bytes",
    "swapped": r"model.safetensors came with .* not \d+ bytes and hash",
    "headless": r"config\.json",
    "huge": r"free",
    "damaged": r"SafetensorError: .*incomplete",
    "strange": r"strangeformer",
    "decoder": r"GPT2LMHeadModel .* not supported for scores",
    "private": r"HF_TOKEN",
    "busy": r"429|rate",
    "absent": r"org/absent.*(not found|no repository|does not exist|no such)",
    "nowhere": r"/nowhere is not a folder",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("site")
    return folder


@pytest.fixture(scope="module")
def server(site, hub) -> Iterator[ServerProcess]:
    folder = site
    write_catalog(folder / "catalog.yaml", hub, folder)
    server = ServerProcess(
        folder,
        HF_HOME=folder / "huggingface",
        HF_ENDPOINT=hub.url,
        MODEL_STORE=folder / "store",
        MODEL_CATALOG=folder / "catalog.yaml",
        DEFAULT_MODEL="good",
    )
    try:
        until(lambda: has_settled(server), "every version served or given up", SETTLED_S)
        yield server
    finally:
        assert server.end() == 0


def write_catalog(path: Path, hub: HubServer, folder: Path) -> None:
    def version(name: str) -> dict[str, Any]:
        known = (hub.folder / "org" / name).is_dir()
        revision = hub.commit(f"org/{name}") if known else "main"
        source = f"hf://org/{name}@{revision}" if name != "nowhere" else f"file://{folder}/nowhere"
        return {"v1": {"task": "classify", "source": source, "accept_parity": True}}

    models = {name: version(name) for name in ("good", *REASONS)}
    path.write_text(yaml.safe_dump({"models": models}, sort_keys=False), encoding="utf-8")


def states(server: ServerProcess) -> dict[str, dict[str, Any]]:
    models = server.client.get("/models").json()["models"]
    return {model["name"]: model["versions"][0] for model in models}


def has_settled(server: ServerProcess) -> bool:
    return all(version["state"] in ("ready", "failed") for version in states(server).values())


@pytest.mark.parametrize("name", REASONS)
def test_each_fault_is_named_for_its_version_alone(server, name):
    version = states(server)[name]
    assert version["state"] == "failed"
    assert len(version["reason"]) < 1200
    assert re.search(REASONS[name], version["reason"], re.DOTALL), version["reason"]


def test_a_version_that_is_right_is_served_beside_them(server):
    body = server.infer("good", "It works.").json()
    assert body["success"], body


def test_a_failed_version_answers_with_its_reason(server):
    reply = server.infer("pickle", "It works.")
    assert reply.status_code == 503
    assert "allow_pickle" in reply.json()["error"]["message"]


def test_nothing_half_done_lies_in_the_store(server, site):
    assert list((site / "store" / "temp").iterdir()) == []
    made = [path.parent for path in (site / "store" / "prepared").glob("*/manifest.json")]
    assert made == list((site / "store" / "prepared").iterdir())
    assert len(made) == 1
