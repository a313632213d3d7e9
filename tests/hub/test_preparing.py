"""From a checkpoint in the hub's layout to a prepared folder, beside the original."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tokenizers

from app.core.checkpoint import Manifest
from app.core.errors import CannotLoad
from app.preparing.job import PrepareJob
from app.preparing.prepare import prepare
from app.runtimes.catalogue import runtime_class
from tests.hub import checkpoints

SCORES = {"kind": "scores", "task": "classify", "runtime": "openvino_encoder"}
VECTORS = {"kind": "vectors", "task": "embed", "runtime": "openvino_encoder"}
TOKENS = {"kind": "tokens", "task": "generate", "runtime": "openvino_llm"}
SEQUENCES = {"kind": "sequences", "task": "summarize", "runtime": "ctranslate2_seq2seq"}
REFERENCE = {**SCORES, "runtime": "torch_reference", "precision": "fp32"}


def job_for(source: Path, out: Path, **changes: Any) -> PrepareJob:
    out.mkdir()
    fields: dict[str, Any] = {
        "source_folder": str(source),
        "out_folder": str(out),
        "format": "safetensors",
        "precision": "int8",
        "threads": 1,
        **changes,
    }
    return PrepareJob(**fields)


def prepared(source: Path, tmp_path: Path, **changes: Any) -> Manifest:
    return prepare(job_for(source, tmp_path / "out", **changes), lambda news: None)


def needs(runtime: str, kind: Any, *options: str) -> None:
    """Skips where the runtime does not load this kind yet."""
    try:
        accepted = inspect.signature(runtime_class(runtime, kind)).parameters
    except CannotLoad as missing:
        pytest.skip(str(missing))
    if unknown := [name for name in options if name not in accepted]:
        pytest.skip(f"{runtime_class(runtime, kind).__name__} takes no {', '.join(unknown)}")


def contents(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*")
    }


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_classifier_answers_as_its_original(tmp_path, precision):
    needs("openvino_encoder", "scores", "precision")
    source = checkpoints.tiny_roberta(tmp_path / "in")
    before = contents(source)
    manifest = prepared(source, tmp_path, **SCORES, **{"precision": precision})
    assert manifest.parity is not None
    assert manifest.parity.failed == []
    assert manifest.parity.inputs == 24
    assert manifest.runtime_options == {"max_tokens": 512, "precision": precision}
    assert manifest.task_options["labels"] == ["negative", "neutral", "positive"]
    assert set(contents(tmp_path / "out")) == {
        "manifest.json",
        "openvino_model.bin",
        "openvino_model.xml",
        "tokenizer.json",
    }
    assert contents(source) == before


def test_the_manifest_lies_in_the_folder_as_it_was_reported(tmp_path):
    source = checkpoints.tiny_roberta(tmp_path / "in")
    manifest = prepared(source, tmp_path, **REFERENCE)
    written = (tmp_path / "out" / "manifest.json").read_bytes()
    assert msgspec.json.decode(written, type=Manifest) == manifest


def test_a_tokenizer_is_made_of_its_tables(tmp_path):
    source = checkpoints.tiny_roberta(tmp_path / "in", tokenizer_json=False)
    manifest = prepared(source, tmp_path, **REFERENCE)
    path = tmp_path / "out" / manifest.files["tokenizer"]
    made = tokenizers.Tokenizer.from_file(str(path))
    assert made.encode("Hello world!").ids == [0, 31414, 232, 328, 2]


def test_an_embedder_keeps_the_pooling_of_its_modules(tmp_path):
    needs("openvino_encoder", "vectors", "pooling", "normalize", "precision")
    source = checkpoints.tiny_minilm(tmp_path / "in", pooling="cls")
    manifest = prepared(source, tmp_path, **VECTORS)
    assert manifest.parity is not None
    assert manifest.parity.failed == []
    assert manifest.runtime_options["pooling"] == "cls"
    assert manifest.runtime_options["max_tokens"] == 256


def test_a_reranker_has_one_score(tmp_path):
    needs("openvino_encoder", "scores", "precision")
    source = checkpoints.tiny_cross_encoder(tmp_path / "in")
    manifest = prepared(source, tmp_path, **{**SCORES, "task": "rerank", "precision": "fp32"})
    assert manifest.parity is not None
    assert manifest.parity.failed == []
    assert manifest.task_options == {"function": "sigmoid"}


def test_a_decoder_in_fp32_writes_the_same_tokens(tmp_path):
    needs("openvino_llm", "tokens", "precision", "kv_bytes_per_token")
    source = checkpoints.tiny_gpt2(tmp_path / "in")
    manifest = prepared(source, tmp_path, **TOKENS, precision="fp32")
    assert manifest.parity is not None
    assert manifest.parity.failed == []
    assert manifest.parity.figures["token_agreement"] == 1.0
    assert manifest.runtime_options["kv_bytes_per_token"] == 2 * 2 * 64 * 4
    assert {path.name for path in (tmp_path / "out" / manifest.files["model"]).iterdir()} >= {
        "openvino_model.xml",
        "openvino_tokenizer.xml",
        "openvino_detokenizer.xml",
        "config.json",
        "generation_config.json",
    }


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_decoder_is_compressed(tmp_path, precision):
    needs("openvino_llm", "tokens", "precision", "kv_bytes_per_token")
    # Groups of 128 weights need layers that are at least as wide.
    source = checkpoints.tiny_gpt2(tmp_path / "in", n_embd=128)
    manifest = prepared(source, tmp_path, **TOKENS, precision=precision)
    assert manifest.parity is not None
    assert manifest.parity.figures["tokenizer_agreement"] == 1.0
    weights = (source / "model.safetensors").stat().st_size
    graph = tmp_path / "out" / manifest.files["model"] / "openvino_model.bin"
    assert graph.stat().st_size < weights / 3


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_encoder_decoder_searches_as_its_original(tmp_path, precision):
    needs("ctranslate2_seq2seq", "sequences", "decoder_start", "eos", "pad", "forced_eos")
    # As newer versions of transformers write it: without what the converter reads.
    old = dict.fromkeys(
        (
            "normalize_before",
            "add_final_layer_norm",
            "normalize_embedding",
            "static_position_embeddings",
        )
    )
    source = checkpoints.tiny_bart(tmp_path / "in", **old)
    manifest = prepared(source, tmp_path, **SEQUENCES, precision=precision)
    assert manifest.parity is not None
    assert manifest.parity.figures["tokenizer_agreement"] == 1.0
    assert manifest.parity.failed == [] or precision == "int8"
    assert manifest.generation["num_beams"] == 4
    assert manifest.runtime_options == {
        "max_tokens": 1024,
        "precision": precision,
        "decoder_start": 2,
        "eos": 2,
        "pad": 1,
        "forced_eos": 2,
    }


def test_shards_are_read_like_one_file(tmp_path):
    needs("openvino_llm", "tokens", "precision", "kv_bytes_per_token")
    source = checkpoints.tiny_gpt2(tmp_path / "in", weights="sharded")
    manifest = prepared(source, tmp_path, **TOKENS, precision="fp32")
    assert manifest.parity is not None
    assert manifest.parity.failed == []


def test_the_reference_runs_the_checkpoint_where_it_lies(tmp_path):
    source = checkpoints.tiny_roberta(tmp_path / "in", tokenizer_json=True)
    manifest = prepared(source, tmp_path, **REFERENCE)
    assert manifest.files == {"model": str(source), "tokenizer": str(source / "tokenizer.json")}
    assert manifest.parity is None
    assert set(contents(tmp_path / "out")) == {"manifest.json"}


def unknown_type(source: Path) -> None:
    edit(source / "config.json", model_type="moonshot", auto_map={"AutoModel": "m.Moon"})


def damaged_weights(source: Path) -> None:
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def no_weights(source: Path) -> None:
    (source / "model.safetensors").unlink()


def missing_shard(source: Path) -> None:
    no_weights(source)
    table = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    checkpoints.write_json(source / "model.safetensors.index.json", {"weight_map": table})
    (source / table["a"]).touch()


def no_head(source: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = source / "model.safetensors"
    kept = {k: v for k, v in load_file(path).items() if not k.startswith("classifier.out")}
    save_file(kept, path, metadata={"format": "pt"})


def other_shape(source: Path) -> None:
    edit(source / "config.json", intermediate_size=256)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (unknown_type, "'moonshot' is not an architecture.*code that a checkpoint brings along"),
        (damaged_weights, "loading the checkpoint with transformers failed"),
        (no_weights, "neither model.safetensors nor model.safetensors.index.json"),
        (missing_shard, "files that are missing: model-00002-of-00002.safetensors"),
        (no_head, "no weights for classifier.out_proj.bias, classifier.out_proj.weight"),
        (other_shape, "loading the checkpoint with transformers failed"),
    ],
    ids=["architecture", "damaged", "no weights", "shard", "head", "shape"],
)
def test_a_checkpoint_that_cannot_be_used_says_why(tmp_path, spoil, reason):
    needs("openvino_encoder", "scores")
    source = checkpoints.tiny_roberta(tmp_path / "in")
    spoil(source)
    with pytest.raises(CannotLoad, match=reason):
        prepared(source, tmp_path, **SCORES)
    assert contents(tmp_path / "out") == {}


def test_encoders_are_not_cut_to_four_bits(tmp_path):
    needs("openvino_encoder", "scores")
    source = checkpoints.tiny_roberta(tmp_path / "in")
    with pytest.raises(CannotLoad, match="int4 is for decoders"):
        prepared(source, tmp_path, **SCORES, precision="int4")


def test_what_no_maker_makes_is_refused(tmp_path):
    source = checkpoints.tiny_roberta(tmp_path / "in")
    with pytest.raises(CannotLoad, match="no checkpoint can be prepared to give tokens in openv"):
        prepared(source, tmp_path, **{**SCORES, "kind": "tokens"})


def test_code_that_a_checkpoint_brings_is_not_run(tmp_path):
    """transformers would import the file that auto_map names, if it were told to trust it."""
    source = checkpoints.tiny_roberta(tmp_path / "in")
    marker = tmp_path / "was-run"
    (source / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass C: pass\n")
    edit(source / "config.json", auto_map={"AutoConfig": "own.C", "AutoTokenizer": "own.C"})
    manifest = prepared(source, tmp_path, **REFERENCE)
    assert manifest.architecture == "RobertaForSequenceClassification"
    assert not marker.exists()


def test_a_prepared_folder_can_be_moved(tmp_path):
    needs("openvino_encoder", "scores", "precision")
    source = checkpoints.tiny_roberta(tmp_path / "in")
    manifest = prepared(source, tmp_path, **SCORES)
    shutil.rmtree(source)
    moved = (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert all(
        (moved / path).is_file() and not (moved / path).is_symlink()
        for path in manifest.files.values()
    )
