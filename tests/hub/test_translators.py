"""Marian, M2M100, NLLB, mBART and T5 from their repositories to `/infer`, beside transformers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from app.preparing.parity_inputs import DOCUMENTS
from tests.e2e.serving import ServerProcess
from tests.hub import translators

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses:UserWarning")

TEXTS = [
    "Hello world.",
    "The river was higher than anybody remembered, and the bridge had been closed since noon.",
    "Is it true?  She says: no!",
    DOCUMENTS[0][:300],
]
TO_GERMAN = "translate English to German: "
FEW = {"max_length": 24}  # random weights seldom come to an end by themselves
BUILDERS = {
    "marian": translators.tiny_marian,
    "many": lambda folder: translators.tiny_marian(folder, languages=("deu", "fra")),
    "m2m100": translators.tiny_m2m100,
    "nllb": translators.tiny_nllb,
    "mbart": translators.tiny_mbart,
    "t5": translators.tiny_t5,
}
SERVED: dict[str, tuple[str, dict[str, Any]]] = {
    "marian": ("marian", {"task": "translate"}),
    "marian-in-torch": ("marian", {"task": "translate", "runtime": "torch_reference"}),
    "many": ("many", {"task": "translate"}),
    "m2m100": ("m2m100", {"task": "translate", "task_options": {"source_lang": "fr"}}),
    "nllb": ("nllb", {"task": "translate"}),
    "mbart": ("mbart", {"task": "translate"}),
    "t5": ("t5", {"task": "translate", "task_options": {"instruction": TO_GERMAN}}),
    "t5-summaries": ("t5", {"task": "summarize"}),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: build(folder / name) for name, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def server(tmp_path_factory, sources) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("site")
    models = {
        name: {"v1": {"source": f"file://{sources[source]}", "precision": "fp32", **fields}}
        for name, (source, fields) in SERVED.items()
    }
    catalog = folder / "catalog.yaml"
    catalog.write_text(yaml.safe_dump({"models": models}, sort_keys=False), encoding="utf-8")
    settings = {"MODEL_STORE": folder / "store", "MODEL_CATALOG": catalog}
    server = ServerProcess(folder, DEFAULT_MODEL="marian", **settings)
    try:
        server.until_ready()
        yield server
    finally:
        assert server.end() == 0


def answer(server: ServerProcess, model: str, text: str, **parameters: Any) -> str:
    body = server.infer(model, text, **parameters).json()
    assert body["success"], body
    result: str = body["result"]
    return result


def original(source: Path, text: str, **options: Any) -> str:
    """What transformers writes, by the checkpoint's own rules; from English."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSeq2SeqLM.from_pretrained(source).eval()
    with torch.inference_mode():
        written = model.generate(**tokenizer(text, return_tensors="pt"), **options)
    made: str = tokenizer.decode(written[0], skip_special_tokens=True)
    return made.strip()


def test_a_marian_of_one_pair_translates_as_transformers_does(server, sources):
    expected = [original(sources["marian"], text, **FEW) for text in TEXTS]

    assert [answer(server, "marian", text, **FEW) for text in TEXTS] == expected
    assert len(set(expected)) == len(TEXTS), "random, but not blind to their text"


def test_the_reference_runtime_reads_the_same_pieces(server, sources):
    expected = [original(sources["marian"], text, **FEW) for text in TEXTS]

    assert [answer(server, "marian-in-torch", text, **FEW) for text in TEXTS] == expected


def test_a_marian_of_several_targets_is_told_one_by_name_or_in_the_text(server, sources):
    text = TEXTS[1]
    german, french = (
        original(sources["many"], f">>{code}<< {text}", **FEW) for code in ("deu", "fra")
    )

    assert german != french
    assert answer(server, "many", text, target_lang="deu", **FEW) == german
    assert answer(server, "many", f">>fra<< {text}", **FEW) == french
    refused = server.infer("many", text)
    assert refused.status_code == 422
    assert "target_lang is required" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("name", "english", "targets"),
    [
        ("m2m100", "en", {"de": "__de__", "fr": "__fr__"}),
        ("nllb", "eng_Latn", {"deu_Latn": "deu_Latn", "fra_Latn": "fra_Latn"}),
        ("mbart", "en_XX", {"de_DE": "de_DE", "fr_XX": "fr_XX"}),
    ],
)
def test_a_model_of_many_languages_is_told_both(server, sources, name, english, targets):
    tokenizer = AutoTokenizer.from_pretrained(sources[name])
    seen = set()
    for code, token in targets.items():
        forced = {"forced_bos_token_id": tokenizer.convert_tokens_to_ids(token)}
        expected = original(sources[name], TEXTS[0], **forced, **FEW)
        given = {"source_lang": english, "target_lang": code}
        assert answer(server, name, TEXTS[0], **given, **FEW) == expected
        seen.add(expected)
    assert len(seen - {""}) == len(targets)
    refused = server.infer(name, TEXTS[0], target_lang="klingon")
    assert "not a language of this model" in refused.json()["error"]["message"]


def test_a_versions_language_stands_where_a_request_names_none(server):
    usual, french, english = (
        answer(server, "m2m100", TEXTS[0], target_lang="fr", **source, **FEW)
        for source in ({}, {"source_lang": "fr"}, {"source_lang": "en"})
    )
    assert usual == french != english


def test_t5_reads_its_instruction_and_keeps_what_it_says_of_each_task(server, sources):
    """One checkpoint, two tasks: summaries have rules and an instruction of their own."""
    text = TEXTS[3]
    expected = original(sources["t5"], TO_GERMAN + text, **FEW)
    assert answer(server, "t5", text, **FEW) == expected

    rules = translators.T5["task_specific_params"]["summarization"]
    search = {name: value for name, value in rules.items() if name != "prefix"}
    asked = {"max_length": 40, "min_length": 10}
    summary = original(
        sources["t5"], "summarize: " + text, renormalize_logits=True, **{**search, **asked}
    )
    assert answer(server, "t5-summaries", text, **asked) == summary


def test_what_was_prepared_says_how_near_it_is(server):
    listed = {m["name"]: m for m in server.client.get("/models").json()["models"]}
    parity = listed["marian"]["versions"][0]["artefact"]["parity"]

    assert parity["passed"] is True
    assert parity["figures"]["tokenizer_agreement"] == 1.0
