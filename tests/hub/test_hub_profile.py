"""From a hub to answers: the real client, a hub on loopback, the real server and workers.

The checkpoints have the true architectures and tokenizers at small size, with random weights.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import transformers
import yaml

from tests.e2e.serving import ROOT, ServerProcess
from tests.hub import checkpoints
from tests.process.hub_server import HubServer

TEXTS = ["I love it.", "What a dreadful afternoon, and then it rained on all of us.", "Fine"]
DOCUMENT = (
    "The old bridge over the river was reopened on Monday after two years of repairs. The work "
    "cost 4.2 million, more than twice what had been planned. An insurer will pay about half of it."
)
PROMPT = "The future of AI is"
COMMIT_DIGITS = 40


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[HubServer]:
    folder = tmp_path_factory.mktemp("hub")
    checkpoints.tiny_roberta(folder / "org" / "sentiment", weights="pickle")
    checkpoints.tiny_bart(folder / "org" / "summarizer")
    checkpoints.tiny_gpt2(folder / "org" / "generator", weights="sharded")
    checkpoints.tiny_minilm(folder / "org" / "embedder")
    for name in ("sentiment", "summarizer", "generator", "embedder"):
        (folder / "org" / name / "README.md").write_text("# Not needed")
        (folder / "org" / name / "tf_model.h5").write_bytes(b"not needed either")
    with HubServer(folder) as server:
        yield server


class Site:
    """A store, a cache and a catalog of one machine, and the environment that names them."""

    def __init__(self, folder: Path, hub: HubServer) -> None:
        self.folder = folder
        self.hub = hub
        self.catalog = folder / "catalog.yaml"
        self.settings: dict[str, object] = {
            "HF_HOME": folder / "huggingface",
            "HF_ENDPOINT": hub.url,
            "MODEL_STORE": folder / "store",
            "MODEL_CATALOG": self.catalog,
            "DEFAULT_MODEL": "sentiment",
        }

    def source(self, name: str) -> str:
        return f"hf://org/{name}@{self.hub.commit(f'org/{name}')}"

    def version(self, task: str, name: str, **fields: Any) -> dict[str, Any]:
        """fp32, so that answers can be compared; random weights may miss the bar."""
        usual = {"precision": "fp32", "accept_parity": True}
        return {"v1": {"task": task, "source": self.source(name), **usual, **fields}}

    def write(self, **models: dict[str, Any]) -> None:
        text = yaml.safe_dump({"models": models}, sort_keys=False)
        self.catalog.write_text(text, encoding="utf-8")

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        ours = {name: str(value) for name, value in self.settings.items()}
        return subprocess.run(
            [sys.executable, "-m", "app.cli", *arguments],
            cwd=self.folder,
            env={**os.environ, **ours, "PYTHONPATH": str(ROOT), "LOG_FORMAT": "json"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def original(self, name: str) -> Path:
        return self.hub.folder / "org" / name


@pytest.fixture(scope="module")
def site(tmp_path_factory, hub) -> Site:
    site = Site(tmp_path_factory.mktemp("site"), hub)
    site.write(
        sentiment=site.version("classify", "sentiment", allow_pickle=True),
        summarizer=site.version("summarize", "summarizer"),
        generator=site.version("generate", "generator"),
        embedder=site.version("embed", "embedder"),
    )
    return site


@pytest.fixture(scope="module")
def server(site) -> Iterator[ServerProcess]:
    """Checked first, so that the check sees a machine that has nothing."""
    checked = site.cli("check")
    assert checked.returncode == 0, checked.stderr
    site.checked = checked.stdout
    server = ServerProcess(site.folder, **site.settings)
    try:
        server.until_ready()
        yield server
    finally:
        assert server.end() == 0


def original_model(auto: Any, folder: Path) -> Any:
    return auto.from_pretrained(folder).eval()


def answer(server: ServerProcess, model: str, text: str, **parameters: Any) -> dict[str, Any]:
    reply = server.infer(model, text, **parameters)
    body: dict[str, Any] = reply.json()
    assert body["success"], body
    return body


def test_check_says_what_would_be_fetched_and_takes_nothing_but_configurations(server, site):
    assert "RobertaForSequenceClassification, pickle, commit" in site.checked
    assert "for openvino_llm" in site.checked
    assert "to prepare: 4 of 4 checkpoints" in site.checked
    assert "memory: about" in site.checked


def test_only_needed_files_are_fetched(server, hub):
    fetched = {place.rpartition("/")[2] for place in hub.asked()}
    assert "pytorch_model.bin" in fetched
    assert not fetched & {"tf_model.h5", "README.md"}


def test_sentiment_answers_as_the_checkpoint_does(server, site):
    folder = site.original("sentiment")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = original_model(transformers.AutoModelForSequenceClassification, folder)
    for text in TEXTS:
        with torch.inference_mode():
            chances = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0].tolist()
        body = answer(server, "sentiment", text)
        scores = body["metadata"]["scores"]
        assert list(scores) == ["negative", "neutral", "positive"]
        assert list(scores.values()) == pytest.approx(chances, abs=1e-3)
        assert body["result"] == max(scores, key=scores.get)


def test_greedy_continuation_is_the_checkpoint_s_own(server, site):
    folder = site.original("generator")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = original_model(transformers.AutoModelForCausalLM, folder)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False, pad_token_id=0)[0]
    expected = tokenizer.decode(tokens[inputs.input_ids.shape[1] :], skip_special_tokens=True)
    body = answer(server, "generator", PROMPT, max_new_tokens=12, temperature=0)
    assert body["result"] == expected
    assert body["metadata"]["usage"]["input_tokens"] == inputs.input_ids.shape[1]


def test_summary_is_that_of_transformers_beam_search(server, site):
    folder = site.original("summarizer")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = original_model(transformers.AutoModelForSeq2SeqLM, folder)
    inputs = tokenizer(DOCUMENT, return_tensors="pt")
    tokens = model.generate(**inputs, min_length=8, max_length=24)[0]
    expected = str(tokenizer.decode(tokens, skip_special_tokens=True))
    body = answer(server, "summarizer", DOCUMENT, min_length=8, max_length=24)
    assert body["result"] == expected.strip()


def test_vectors_are_those_of_the_checkpoint(server, site):
    folder = site.original("embedder")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = original_model(transformers.AutoModel, folder)
    with torch.inference_mode():
        hidden = model(**tokenizer(TEXTS[1], return_tensors="pt")).last_hidden_state[0]
    expected = torch.nn.functional.normalize(hidden.mean(0), dim=0).tolist()
    assert answer(server, "embedder", TEXTS[1])["result"] == pytest.approx(expected, abs=1e-4)


def test_models_shows_the_commit_the_parity_and_the_defaults_of_a_checkpoint(server, site):
    models = {m["name"]: m["versions"][0] for m in server.client.get("/models").json()["models"]}
    artefact = models["summarizer"]["artefact"]
    assert artefact["source"] == site.source("summarizer")
    assert len(artefact["commit"]) == COMMIT_DIGITS
    assert artefact["generation"]["num_beams"] == 4
    assert artefact["parity"]["inputs"] > 0
    assert models["sentiment"]["artefact"]["parity"]["figures"]["label_agreement"] == 1.0


def test_torch_is_in_no_serving_process(server):
    process = psutil.Process(server.process.pid)
    serving = [process, *process.children(recursive=True)]
    assert len(serving) == 5
    for each in serving:
        assert not [m.path for m in each.memory_maps() if "libtorch" in m.path]


def test_what_is_prepared_is_served_without_the_hub_and_its_cache(server, site):
    """The store alone, as on a machine that only serves."""
    checked = site.cli("check")
    assert "to prepare: 0 of 4 checkpoints" in checked.stdout
    shutil.rmtree(site.folder / "huggingface")
    alone = {**site.settings, "HF_ENDPOINT": "http://127.0.0.1:9"}
    again = ServerProcess(site.folder, **alone)
    try:
        again.until_ready()
        assert answer(again, "sentiment", TEXTS[0])["success"]
    finally:
        again.end()
