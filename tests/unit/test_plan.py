import pytest

from app.core.errors import CannotLoad
from app.preparing.plan import make_plan
from app.preparing.plan.families import DECODERS, ENCODERS
from app.preparing.plan.files import Listing, choose_files

ROBERTA = {"model_type": "roberta", "architectures": ["RobertaForSequenceClassification"]}
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_positions": 1024}
BART = {
    "model_type": "bart",
    "architectures": ["BartForConditionalGeneration"],
    "max_position_embeddings": 1024,
}
TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt")
# What lies beside the weights in many repositories and is of no use here.
LITTER = (
    "README.md .gitattributes tf_model.h5 flax_model.msgpack rust_model.ot onnx/model.onnx "
    "onnx/config.json coreml/model.mlpackage runs/events.out.tfevents.1 modeling_own.py"
).split()


def listing(*paths: str, config=None, **sizes: int) -> Listing:
    return Listing({path: sizes.get(path.partition(".")[0], 100) for path in paths}, config)


def plan_of(
    config,
    *paths,
    kind="scores",
    runtime="openvino_encoder",
    precision="int8",
    model_bytes=100,
):
    paths = ("config.json", *(paths or ("model.safetensors",)))
    files = listing(*paths, config=config, model=model_bytes)
    return make_plan(files, kind=kind, runtime=runtime, precision=precision, allow_pickle=False)


def test_only_the_weights_of_one_format_and_what_reads_them_are_fetched():
    files = listing(
        "config.json", *TOKENIZER, *LITTER, "pytorch_model.bin", "model.safetensors", model=7
    )
    choice = choose_files(files, allow_pickle=True)
    assert choice.format == "safetensors"
    assert set(choice.paths) == {"config.json", *TOKENIZER, "model.safetensors"}
    assert choice.weights == ("model.safetensors",)
    assert choice.download_bytes == 407


def test_files_of_a_sentence_embedder_are_part_of_it():
    own = (
        "modules.json 1_Pooling/config.json sentence_bert_config.json "
        "config_sentence_transformers.json"
    ).split()
    choice = choose_files(listing("model.safetensors", *own, *LITTER), allow_pickle=False)
    assert set(choice.paths) == {"model.safetensors", *own}


def test_vocabularies_of_translators_are_part_of_it():
    own = {"source.spm", "target.spm", "vocab.json", "target_vocab.json", "spm.model"}
    choice = choose_files(listing("model.safetensors", *own), allow_pickle=False)
    assert set(choice.paths) == {"model.safetensors", *own}


def test_index_brings_its_shards_and_comes_before_them():
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    files = listing("model.safetensors.index.json", "config.json", *reversed(shards))
    choice = choose_files(files, allow_pickle=False)
    assert choice.paths == ("config.json", "model.safetensors.index.json", *shards)


def test_missing_shard_is_named():
    files = listing("model.safetensors.index.json", "model-00001-of-00003.safetensors")
    with pytest.raises(CannotLoad, match="of its 3 files of weights.*model-00002-of-00003"):
        choose_files(files, allow_pickle=False)


def test_index_without_any_shard_is_said():
    with pytest.raises(CannotLoad, match="none of the files that this names"):
        choose_files(listing("pytorch_model.bin.index.json"), allow_pickle=True)


@pytest.mark.parametrize(
    "paths",
    [
        pytest.param(("pytorch_model.bin",), id="one file"),
        pytest.param(
            ("pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"), id="shards"
        ),
    ],
)
def test_pickle_is_refused_with_a_remedy_and_read_where_the_catalog_allows(paths):
    files = listing("config.json", *paths, "openvino/openvino_model.xml")
    with pytest.raises(CannotLoad, match="can run code.*`allow_pickle: true`.*weights only"):
        choose_files(files, allow_pickle=False)
    choice = choose_files(files, allow_pickle=True)
    assert (choice.format, choice.weights) == ("pickle", paths)


@pytest.mark.parametrize(
    ("paths", "format", "weights"),
    [
        pytest.param(
            ("openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml"),
            "openvino",
            {"openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml"},
            id="openvino",
        ),
        pytest.param(
            ("openvino/openvino_model.xml", "openvino/openvino_model.bin"),
            "openvino",
            {"openvino/openvino_model.xml", "openvino/openvino_model.bin"},
            id="openvino in its folder",
        ),
        pytest.param(
            ("model.onnx", "model.onnx_data", "openvino/openvino_model.xml"),
            "onnx",
            {"model.onnx", "model.onnx_data"},
            id="onnx before the folder",
        ),
        pytest.param(
            ("model.bin", "config.json", "shared_vocabulary.json"),
            "ctranslate2",
            {"model.bin", "shared_vocabulary.json"},
            id="ctranslate2",
        ),
        pytest.param(
            ("model.bin", "config.json", "source_vocabulary.json", "target_vocabulary.json"),
            "ctranslate2",
            {"model.bin", "source_vocabulary.json", "target_vocabulary.json"},
            id="ctranslate2, a vocabulary for each side",
        ),
        pytest.param(("tiny.Q8_0.gguf",), "gguf", {"tiny.Q8_0.gguf"}, id="gguf"),
    ],
)
def test_ready_made_files_are_taken_where_there_are_no_weights_for_transformers(
    paths, format, weights
):
    choice = choose_files(listing(*paths, "tokenizer.json", *LITTER), allow_pickle=False)
    assert (choice.format, set(choice.weights)) == (format, weights)
    assert "tokenizer.json" in choice.paths
    with_safetensors = choose_files(listing(*paths, "model.safetensors"), allow_pickle=False)
    assert with_safetensors.format == "safetensors"


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        pytest.param(("a.gguf", "b.gguf"), r"2 \.gguf files \(a.gguf, b.gguf\)", id="two gguf"),
        pytest.param(("tf_model.h5", "README.md"), "it holds: README.md, tf_model.h5", id="other"),
        pytest.param(("model.bin", "config.json"), "no weights", id="model.bin, no vocabulary"),
        pytest.param(("openvino_model.xml",), r"its \.bin is missing", id="half an IR"),
        pytest.param((), "it holds: nothing", id="nothing"),
        pytest.param(tuple(f"{n:02}.txt" for n in range(20)), "07.txt and 12 more", id="many"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_was_found(paths, words):
    with pytest.raises(CannotLoad, match=words):
        choose_files(listing(*paths), allow_pickle=False)


def test_classifier_is_planned_with_its_sizes():
    plan = plan_of(ROBERTA, model_bytes=500_000_000)  # 125 million weights of 4 bytes
    assert (plan.format, plan.architecture) == ("safetensors", "RobertaForSequenceClassification")
    assert plan.files == ("config.json", "model.safetensors")
    assert plan.needs_torch
    assert plan.download_bytes == 500_000_100
    assert plan.prepared_bytes == pytest.approx(151e6, rel=0.01)
    assert plan.prepare_memory_bytes == pytest.approx(2.6e9, rel=0.01)
    assert plan.serve_memory_bytes == pytest.approx(447e6, rel=0.01)


def test_half_precision_weights_count_double():
    given = {"kind": "tokens", "runtime": "openvino_llm", "model_bytes": 1_000_000_000}
    for key, value in (("torch_dtype", "bfloat16"), ("dtype", "float16")):
        assert plan_of(GPT2 | {key: value}, **given).prepared_bytes == pytest.approx(545e6)
    assert plan_of(GPT2, **given).prepared_bytes == pytest.approx(282.5e6)


@pytest.mark.parametrize(
    ("precision", "bytes_per_weight"),
    [pytest.param("int4", 0.6, id="int4"), pytest.param("fp32", 4.0, id="fp32")],
)
def test_precision_decides_the_prepared_size(precision, bytes_per_weight):
    plan = plan_of(
        GPT2,
        kind="tokens",
        runtime="openvino_llm",
        model_bytes=4_000_000_000,
        precision=precision,
    )
    assert plan.prepared_bytes == pytest.approx(1e9 * bytes_per_weight, rel=0.04)


def test_int4_is_for_llms():
    with pytest.raises(CannotLoad, match="int4 is for LLMs; what gives scores takes int8 or fp32"):
        plan_of(ROBERTA, precision="int4")


def test_room_for_the_exported_graph_and_the_unpickled_weights_is_counted():
    half = {**ROBERTA, "torch_dtype": "float16"}
    assert plan_of(half, model_bytes=1_000).draft_bytes == 2_000
    files = listing("config.json", "pytorch_model.bin", config=half)
    pickled = make_plan(
        files, kind="scores", runtime="openvino_encoder", precision="int8", allow_pickle=True
    )
    assert pickled.draft_bytes == 100 + 200
    assert plan_of(None, "model.onnx", kind="tensors").draft_bytes == 0


def test_ready_made_files_are_served_without_preparing_anything():
    plan = plan_of(None, "model.onnx", kind="tensors", model_bytes=1_000_000)
    assert (plan.format, plan.architecture) == ("onnx", "onnx")
    assert (plan.prepared_bytes, plan.prepare_memory_bytes, plan.needs_torch) == (0, 0, False)
    assert plan.serve_memory_bytes == 251_300_000


def test_reference_runtime_makes_nothing_and_needs_torch():
    plan = plan_of(ROBERTA, runtime="torch_reference", precision="fp32", model_bytes=400_000_000)
    assert (plan.prepared_bytes, plan.needs_torch) == (0, True)
    assert plan.serve_memory_bytes > 1_000_000_000


def test_reference_runtime_takes_what_transformers_may_know():
    config = {"model_type": "of_tomorrow", "architectures": ["OfTomorrowForCausalLM"]}
    plan = plan_of(config, kind="tokens", runtime="torch_reference")
    assert plan.architecture == "OfTomorrowForCausalLM"


@pytest.mark.parametrize(
    ("config", "kind", "runtime"),
    [
        pytest.param(BART, "sequences", "ctranslate2_seq2seq", id="bart"),
        pytest.param(BART, "sequences", "openvino_seq2seq", id="bart in openvino"),
        pytest.param(
            {"model_type": "marian", "architectures": ["MarianMTModel"]},
            "sequences",
            "ctranslate2_seq2seq",
            id="marian",
        ),
        pytest.param(GPT2, "tokens", "openvino_llm", id="gpt2"),
        pytest.param(
            {"model_type": "mpnet", "architectures": ["MPNetForMaskedLM"]},
            "vectors",
            "openvino_encoder",
            id="an embedder of any head",
        ),
    ],
)
def test_supported_architectures_are_planned(config, kind, runtime):
    assert plan_of(config, kind=kind, runtime=runtime).architecture == config["architectures"][0]


@pytest.mark.parametrize(
    ("config", "given", "words"),
    [
        pytest.param(
            GPT2,
            {},
            r"GPT2LMHeadModel \(model_type 'gpt2'\).*for scores with openvino_encoder.*roberta",
            id="a decoder as a classifier",
        ),
        pytest.param(
            ROBERTA | {"architectures": ["RobertaForMaskedLM"]},
            {},
            "RobertaForMaskedLM; scores need an architecture.*ForSequenceClassification",
            id="an encoder without labels",
        ),
        pytest.param({"model_type": "bert"}, {}, "names no architecture", id="no architecture"),
        pytest.param(
            BART | {"architectures": ["BartForSequenceClassification"]},
            {"kind": "sequences", "runtime": "ctranslate2_seq2seq"},
            "sequences need",
            id="bart that classifies",
        ),
        pytest.param(
            {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
            {"kind": "sequences", "runtime": "openvino_seq2seq"},
            "supported: bart",
            id="t5 in openvino",
        ),
        pytest.param(
            GPT2 | {"auto_map": {"AutoModel": "modeling_own.Own"}},
            {"kind": "tokens", "runtime": "openvino_llm"},
            "code out of a checkpoint is never run",
            id="custom code",
        ),
        pytest.param(
            GPT2 | {"quantization_config": {"quant_method": "gptq"}},
            {"kind": "tokens", "runtime": "openvino_llm"},
            r"quantised already \(gptq\)",
            id="quantised",
        ),
        pytest.param(None, {}, "no config.json", id="no config"),
        pytest.param(ROBERTA, {"kind": "tensors"}, "does not take tensors", id="tensors"),
    ],
)
def test_unsupported_checkpoint_is_refused_with_what_it_is_and_what_would_do(config, given, words):
    with pytest.raises(CannotLoad, match=words):
        plan_of(config, **given)


@pytest.mark.parametrize(
    ("paths", "kind", "runtime", "words"),
    [
        pytest.param(("a.gguf",), "scores", "openvino_encoder", "form gguf.*onnx", id="gguf"),
        pytest.param(
            ("model.onnx",),
            "tokens",
            "openvino_llm",
            "form onnx.*gguf, openvino, pickle",
            id="onnx",
        ),
        pytest.param(
            ("model.onnx",), "scores", "torch_reference", "pickle, safetensors", id="reference"
        ),
    ],
)
def test_ready_made_form_that_the_runtime_does_not_read_is_refused(paths, kind, runtime, words):
    with pytest.raises(CannotLoad, match=words):
        plan_of(None, *paths, kind=kind, runtime=runtime)


def test_ready_made_files_are_checked_by_the_head_that_their_config_names():
    with pytest.raises(CannotLoad, match="scores need"):
        plan_of(GPT2, "model.onnx", kind="scores")


def test_families_hold_the_names_that_config_files_use():
    assert {"roberta", "xlm-roberta", "deberta-v2"} <= ENCODERS
    assert {"gpt2", "llama", "qwen3", "smollm3"} <= DECODERS
