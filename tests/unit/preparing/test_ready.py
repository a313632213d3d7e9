"""Files that are served as they lie."""

import msgspec
import pytest

from app.core.errors import CannotLoad
from app.preparing.facts import Facts
from app.preparing.manifests import manifest_of
from app.preparing.ready import ready_manifest
from app.runtimes.sentencepieces import Pieces
from tests.unit.preparing.jobs import ROBERTA, folder_of, job_for

CT2_CONFIG = {"bos_token": "<s>", "decoder_start_token": "</s>", "eos_token": "</s>"}
TOKENIZER = {
    "model": {"vocab": {"<s>": 0, "<pad>": 1, "a": 3}},
    "added_tokens": [{"id": 2, "content": "</s>"}],
}
GENAI = ("openvino_model.xml", "openvino_tokenizer.xml", "openvino_detokenizer.xml")


def checkpoint(folder, *names, **files):
    folder_of(folder, **files)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    return folder


def test_a_graph_is_described_from_the_json_files_beside_it(tmp_path):
    source = checkpoint(
        tmp_path / "in",
        "openvino_model.xml",
        "openvino_model.bin",
        config=ROBERTA,
        tokenizer=TOKENIZER,
    )
    manifest = ready_manifest(job_for(source, format="openvino"))
    assert manifest.files == {
        "model": str(source / "openvino_model.xml"),
        "tokenizer": str(source / "tokenizer.json"),
    }
    assert manifest.runtime_options == {"max_tokens": 512, "precision": "int8"}
    assert manifest.task_options["labels"] == ["negative", "neutral", "positive"]
    assert manifest.size_bytes == 5 + 5 + (source / "tokenizer.json").stat().st_size
    assert (manifest.parity, manifest.tools) == (None, {})


def test_a_graph_without_modules_may_pool_by_itself(tmp_path):
    source = checkpoint(tmp_path / "in", "model.onnx", config=ROBERTA, tokenizer=TOKENIZER)
    manifest = ready_manifest(job_for(source, format="onnx", kind="vectors", task="embed"))
    assert "pooling" not in manifest.runtime_options
    assert manifest.runtime_options["normalize"] is True


def test_a_file_in_a_folder_that_is_served_counts_once(tmp_path):
    source = checkpoint(tmp_path / "in", "openvino_model.xml", config=ROBERTA, tokenizer=TOKENIZER)
    files = {"model": str(source), "tokenizer": str(source / "tokenizer.json")}
    manifest = manifest_of(job_for(source), Facts("RobertaModel"), files)
    assert manifest.size_bytes == sum(path.stat().st_size for path in source.iterdir())


def test_tensors_need_no_tokenizer_and_no_configuration(tmp_path):
    source = checkpoint(tmp_path / "in", "onnx/model.onnx", "onnx/model_quantized.onnx")
    manifest = ready_manifest(job_for(source, format="onnx", kind="tensors", task="tensors"))
    assert manifest.files == {"model": str(source / "onnx" / "model.onnx")}
    assert manifest.runtime_options == {}


def test_a_gguf_file_needs_nothing_beside_it(tmp_path):
    source = checkpoint(tmp_path / "in", "smol.Q4_1.gguf")
    job = job_for(source, format="gguf", kind="tokens", task="generate", runtime="openvino_llm")
    manifest = ready_manifest(job)
    assert manifest.files == {"model": str(source / "smol.Q4_1.gguf")}
    assert manifest.runtime_options["max_tokens"] == 2048


def test_tokens_of_a_ctranslate2_folder_are_found_by_their_text(tmp_path):
    source = checkpoint(
        tmp_path / "in",
        "model.bin",
        config=CT2_CONFIG,
        shared_vocabulary=["<s>", "<pad>", "</s>", "a"],
        tokenizer=TOKENIZER,
        tokenizer_config={"model_max_length": 1024},
    )
    job = job_for(source, format="ctranslate2", kind="sequences", task="summarize")
    manifest = ready_manifest(job)
    assert manifest.files["model"] == str(source)
    assert manifest.runtime_options == {
        "max_tokens": 1024,
        "precision": "int8",
        "decoder_start": 2,
        "eos": 2,
        "pad": 1,
    }


def test_sentencepiece_models_beside_ctranslate2s_files_get_their_table(tmp_path):
    names = {"eos_token": "</s>", "unk_token": "<unk>", "decoder_start_token": "</s>"}
    source = checkpoint(
        tmp_path / "in",
        *("model.bin", "source.spm", "target.spm"),
        config={**names, "add_source_eos": True},
        source_vocabulary=["</s>", "<unk>", "a", ">>fra<<"],
        target_vocabulary=["b", "</s>", "<unk>"],
    )
    out = tmp_path / "out"
    out.mkdir()
    asked = {"format": "ctranslate2", "kind": "sequences", "max_tokens": 512}
    manifest = ready_manifest(job_for(source, **asked))
    pieces = msgspec.json.decode((out / "sentencepieces.json").read_bytes(), type=Pieces)

    assert manifest.files["tokenizer"] == "sentencepieces.json"
    assert manifest.runtime_options["eos"] == 1
    assert pieces.source_model == str(source / "source.spm")
    assert (pieces.head, pieces.tail, pieces.unknown) == ([], [], 1)
    assert pieces.special == {"</s>": 0, "<unk>": 1, ">>fra<<": 3}
    assert pieces.target == ["b", "</s>", "<unk>"]


def test_a_decoder_folder_keeps_its_files_together(tmp_path):
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "n_positions": 1024,
        "n_embd": 8,
        "n_layer": 1,
        "n_head": 2,
    }
    source = checkpoint(tmp_path / "in", *GENAI, config=config, generation_config={"top_k": 5})
    manifest = ready_manifest(job_for(source, format="openvino", kind="tokens", task="generate"))
    assert manifest.files == {"model": str(source)}
    assert manifest.generation == {"top_k": 5}


@pytest.mark.parametrize(
    ("names", "changes", "reason"),
    [
        (("model.onnx",), {"format": "onnx"}, "no tokenizer.json"),
        ((), {"format": "onnx"}, "no .onnx file"),
        (("a.onnx", "b.onnx"), {"format": "onnx"}, "2 .onnx files, and one is served: a.onnx, b"),
        (("model.onnx",), {"format": "onnx", "kind": "tokens"}, "ONNX files cannot give tokens"),
        (("model.bin",), {"format": "ctranslate2"}, "to give sequences, not scores"),
        ((), {"format": "ctranslate2", "kind": "sequences"}, "no model.bin"),
        (("a.gguf",), {"format": "gguf"}, "to give tokens, not scores"),
        (GENAI[:2], {"format": "openvino", "kind": "tokens"}, "no openvino_detokenizer.xml"),
    ],
    ids=[
        "no tokenizer",
        "no graph",
        "two graphs",
        "onnx decoder",
        "ctranslate2 scores",
        "no engine file",
        "gguf scores",
        "no detokenizer",
    ],
)
def test_what_is_missing_or_does_not_fit_is_said(tmp_path, names, changes, reason):
    source = checkpoint(tmp_path / "in", *names, config=ROBERTA)
    with pytest.raises(CannotLoad, match=reason):
        ready_manifest(job_for(source, **changes))
