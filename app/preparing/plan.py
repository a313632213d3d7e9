"""What a checkpoint is, told from its list of files and its config.json: nothing else is read.

`choose_files` says which of its files are needed, `make_plan` what will be made of them and what
that takes. Pure and light: the catalog check, the download and the prepare step all ask here.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from app.core.checkpoint import Kind, Precision
from app.core.errors import CannotLoad

Format = Literal["safetensors", "pickle", "openvino", "onnx", "ctranslate2", "gguf"]

# Beside the weights, wherever the checkpoint has them. Patterns match whole paths.
_COMMON = re.compile(
    r"config\.json|generation_config\.json"
    r"|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.json|merges\.txt|vocab\.txt|[^/]+\.spm|spiece\.model|sentencepiece\.bpe\.model"
    r"|tokenizer\.model|chat_template[^/]*"
    r"|modules\.json|1_Pooling/config\.json|sentence_bert_config\.json"
    r"|config_sentence_transformers\.json"
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>\.[a-z]+)")
_CT2_VOCABULARIES = {"shared_vocabulary.json", "shared_vocabulary.txt", "vocabulary.json"}
_CT2_VOCABULARY = re.compile(r"(shared_|source_|target_)?vocabulary\.(json|txt)")
_OPENVINO = re.compile(r"openvino_(model|tokenizer|detokenizer)\.(xml|bin)")

# --- What can be prepared -------------------------------------------------------------------------

# model_type of config.json. Each is what transformers itself and the exporter both know; families
# that keep a state instead of keys and values (Mamba and its kin) cannot share the step loop.
ENCODERS = frozenset(
    "albert bert camembert convbert data2vec-text deberta deberta-v2 distilbert electra flaubert "
    "ibert mobilebert mpnet nystromformer rembert roberta roformer squeezebert xlm-roberta".split()
)
DECODERS = frozenset(
    "arcee biogpt bloom codegen cohere cohere2 exaone4 falcon gemma gemma2 gemma3_text gemma4_text "
    "glm glm4 gpt2 gpt_bigcode gpt_neo gpt_neox gptj granite granitemoe hunyuan_v1_dense llama "
    "mistral mixtral mpt olmo olmo2 opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe "
    "smollm3 stablelm starcoder2 xglm".split()
)
# Those of CTranslate2's converter that are encoder-decoders for text (T5 among them: it has no
# bound on its length and begins with its padding token; the prepare step reads both from config).
CTRANSLATE2 = frozenset("bart m2m_100 marian mbart mt5 pegasus t5 umt5".split())

# (kind, runtime) -> families; None: whatever the installed transformers knows.
_FAMILIES: dict[tuple[Kind, str], frozenset[str] | None] = {
    ("vectors", "openvino_encoder"): ENCODERS,
    ("scores", "openvino_encoder"): ENCODERS,
    ("sequences", "ctranslate2_seq2seq"): CTRANSLATE2,
    ("sequences", "openvino_seq2seq"): frozenset({"bart"}),
    ("tokens", "openvino_llm"): DECODERS,
    ("vectors", "torch_reference"): None,
    ("scores", "torch_reference"): None,
    ("sequences", "torch_reference"): None,
    ("tokens", "torch_reference"): None,
}
# How the class in `architectures` must end; vectors come from the body that every class has.
_HEADS: dict[Kind, tuple[str, ...]] = {
    "scores": ("ForSequenceClassification",),
    "sequences": ("ForConditionalGeneration", "MTModel"),
    "tokens": ("ForCausalLM", "LMHeadModel"),
}
# runtime -> formats it serves as they are.
_SERVED_AS_THEY_ARE: dict[str, frozenset[str]] = {
    "openvino_encoder": frozenset({"openvino", "onnx"}),
    "openvino_llm": frozenset({"openvino", "gguf"}),
    "ctranslate2_seq2seq": frozenset({"ctranslate2"}),
}
CONVERTED = frozenset({"safetensors", "pickle"})

# --- Estimates ------------------------------------------------------------------------------------

_DTYPE_BYTES = {"float64": 8.0, "float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
# Per weight, with the scales that quantised weights carry.
_PREPARED_BYTES: dict[str, float] = {"int8": 1.05, "int4": 0.6, "fp32": 4.0}
_TOKENIZER_BYTES = 20_000_000  # graph, vocabulary and tokenizer, beside the weights
# The original as float32 and the export beside it, and torch with its exporter.
_PREPARE_FACTOR, _PREPARE_BYTES = 2.2, 1_500_000_000
# Without an exporter the original alone is held in float32, and the graphs are made after it.
_DIRECT_FACTOR = 1.2
# The weights as the runtime lays them out, and a worker process with its buffers.
_SERVE_FACTOR, _SERVE_BYTES = 1.3, 250_000_000
_TORCH_BYTES = 600_000_000  # more than other workers: torch and transformers themselves

_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
# Their first positions, up to the padding token, are never used.
_PADDED_POSITIONS = frozenset("roberta xlm-roberta camembert data2vec-text mpnet ibert".split())
_SHOWN = 8  # names of files that an error lists


@dataclass(frozen=True, slots=True)
class Listing:
    """A checkpoint as its publisher laid it out. files: path to bytes."""

    files: Mapping[str, int]
    config: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """weights: those of `paths` that hold the parameters; they are fetched last."""

    format: Format
    paths: tuple[str, ...]
    weights: tuple[str, ...]
    download_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes are estimates, except download_bytes. prepared_bytes and prepare_memory_bytes are 0
    for files that are served as they lie. draft_bytes: on disk beside the result while it is made.
    max_tokens: the longest input, None where config.json
    names none."""

    format: Format
    architecture: str
    files: tuple[str, ...]
    download_bytes: int
    prepared_bytes: int
    draft_bytes: int
    prepare_memory_bytes: int
    serve_memory_bytes: int
    needs_torch: bool
    max_tokens: int | None


def choose_files(listing: Listing, *, allow_pickle: bool) -> Choice:
    """The files that are needed, and no other. Raises CannotLoad that says what is missing.

    Weights for transformers win over what others made of them; safetensors win over a pickle.
    """
    files = listing.files
    if weights := _whole(files, "model", ".safetensors"):
        return _choice("safetensors", files, weights)
    if weights := _whole(files, "pytorch_model", ".bin"):
        if not allow_pickle:
            raise CannotLoad(
                f"its weights exist only as a pickle ({_some(weights)}): a file format that can "
                "run code of its maker while it is read, and so is refused. With `allow_pickle: "
                "true` in the catalog it is read safely: weights only, in a process of its own"
            )
        return _choice("pickle", files, weights)
    return _ready_made(files)


def make_plan(
    listing: Listing, *, kind: Kind, runtime: str, precision: Precision, allow_pickle: bool
) -> Plan:
    """What is fetched and made for this kind and runtime. Raises CannotLoad with the reason."""
    choice = choose_files(listing, allow_pickle=allow_pickle)
    config = listing.config or {}
    if precision == "int4" and kind != "tokens" and choice.format in CONVERTED:
        raise CannotLoad(f"precision int4 is for LLMs; what gives {kind} takes int8 or fp32")
    if choice.format in CONVERTED:
        architecture = _check_convertible(config, kind, runtime)
    else:
        architecture = _check_ready_made(choice.format, config, kind, runtime)
    weights_bytes = sum(listing.files[path] for path in choice.weights)
    prepared, prepare, serve = _sizes(choice.format, weights_bytes, config, runtime, precision)
    return Plan(
        format=choice.format,
        architecture=architecture,
        files=choice.paths,
        download_bytes=choice.download_bytes,
        prepared_bytes=prepared,
        draft_bytes=_draft_bytes(choice, weights_bytes, config, runtime),
        prepare_memory_bytes=prepare,
        serve_memory_bytes=serve,
        needs_torch=choice.format in CONVERTED,
        max_tokens=longest_input(config),
    )


def longest_input(config: Mapping[str, Any]) -> int | None:
    """In tokens, special ones included; None where the config names no bound."""
    for name in _LENGTHS:
        length = config.get(name)
        if isinstance(length, int) and length > 0:
            padding = config.get("pad_token_id")
            if config.get("model_type") in _PADDED_POSITIONS:
                length -= (padding if isinstance(padding, int) else 1) + 1
            return length if length > 0 else None
    return None


def _whole(files: Mapping[str, int], stem: str, end: str) -> tuple[str, ...]:
    """One file of weights, or its index and every shard; empty where there is neither."""
    if f"{stem}{end}" in files:
        return (f"{stem}{end}",)
    index = f"{stem}{end}.index.json"
    if index not in files:
        return ()
    shards = {path: found for path in files if (found := _shard(path, stem, end))}
    count = max((int(found["count"]) for found in shards.values()), default=0)
    wanted = tuple(f"{stem}-{n:05}-of-{count:05}{end}" for n in range(1, count + 1))
    if missing := [path for path in wanted if path not in shards]:
        raise CannotLoad(f"of its {count} files of weights these are missing: {_some(missing)}")
    if not wanted:
        raise CannotLoad(f"it has {index} but none of the files that this names")
    return (index, *wanted)


def _shard(path: str, stem: str, end: str) -> re.Match[str] | None:
    found = _SHARD.fullmatch(path)
    return found if found and (found["stem"], found["end"]) == (stem, end) else None


def _ready_made(files: Mapping[str, int]) -> Choice:
    for folder in ("", "openvino/"):
        if f"{folder}openvino_model.xml" in files:
            own = tuple(
                path
                for path in files
                if path.startswith(folder) and _OPENVINO.fullmatch(path.removeprefix(folder))
            )
            if f"{folder}openvino_model.bin" not in own:
                raise CannotLoad(f"{folder}openvino_model.xml is there, its .bin is missing")
            return _choice("openvino", files, own)
        if folder == "" and (others := _other_formats(files)):
            return others
    raise CannotLoad(
        "it holds no weights that can be used (model.safetensors, pytorch_model.bin, "
        "openvino_model.xml, model.onnx, model.bin of CTranslate2, one .gguf); it holds: "
        f"{_some(files)}"
    )


def _other_formats(files: Mapping[str, int]) -> Choice | None:
    if "model.onnx" in files:
        parts = ("model.onnx", "model.onnx_data", "model.onnx.data")
        return _choice("onnx", files, tuple(path for path in parts if path in files))
    if {"model.bin", "config.json"} <= set(files) and _CT2_VOCABULARIES & set(files):
        vocabularies = tuple(path for path in files if _CT2_VOCABULARY.fullmatch(path))
        return _choice("ctranslate2", files, ("model.bin", *vocabularies))
    ggufs = [path for path in files if path.endswith(".gguf")]
    if len(ggufs) > 1:
        raise CannotLoad(
            f"it holds {len(ggufs)} .gguf files ({_some(ggufs)}), and one is needed: put the one "
            "that you want into a folder of its own and name that as file://"
        )
    return _choice("gguf", files, tuple(ggufs)) if ggufs else None


def _choice(format: Format, files: Mapping[str, int], weights: tuple[str, ...]) -> Choice:
    common = (path for path in files if _COMMON.fullmatch(path))
    paths = tuple(dict.fromkeys((*sorted(common), *weights)))
    return Choice(format, paths, weights, sum(files[path] for path in paths))


def _check_convertible(config: Mapping[str, Any], kind: Kind, runtime: str) -> str:
    """The architecture's name, once it is known that it can be prepared for this runtime."""
    if not config:
        raise CannotLoad("it has no config.json that says what the weights are")
    family, names = config.get("model_type"), _architectures(config)
    architecture = names[0] if names else str(family)
    if "auto_map" in config:
        raise CannotLoad(
            f"its config.json asks for code of its own (auto_map, model_type {family!r}), and code "
            "out of a checkpoint is never run"
        )
    if isinstance(quantised := config.get("quantization_config"), Mapping):
        method = quantised.get("quant_method", "an unnamed method")
        raise CannotLoad(
            f"its weights are quantised already ({method}) and cannot be prepared: name the "
            "checkpoint that it was made from"
        )
    if (kind, runtime) not in _FAMILIES:
        raise CannotLoad(f"runtime {runtime!r} does not take {kind} from a checkpoint's weights")
    families = _FAMILIES[kind, runtime]
    if families is not None and family not in families:
        raise CannotLoad(
            f"{architecture} (model_type {family!r}) is not supported for {kind} with {runtime}; "
            f"supported: {', '.join(sorted(families))}"
        )
    _check_head(names, kind, is_required=True)
    return architecture


def _check_ready_made(format: Format, config: Mapping[str, Any], kind: Kind, runtime: str) -> str:
    served = _SERVED_AS_THEY_ARE.get(runtime, frozenset())
    if format not in served:
        able = sorted(served | (CONVERTED if (kind, runtime) in _FAMILIES else set()))
        raise CannotLoad(
            f"it is in the form {format}, which {runtime} does not take; "
            f"it takes for {kind}: {', '.join(able) or 'no checkpoint'}"
        )
    names = _architectures(config)
    _check_head(names, kind, is_required=False)
    return names[0] if names else str(config.get("model_type") or format)


def _check_head(names: tuple[str, ...], kind: Kind, *, is_required: bool) -> None:
    heads = _HEADS.get(kind)
    if heads is None or (not names and not is_required):
        return
    if not any(name.endswith(heads) for name in names):
        has = f"it is {_some(names)}" if names else "its config.json names no architecture"
        wanted = " or ".join(f"...{head}" for head in heads)
        raise CannotLoad(f"{has}; {kind} need an architecture that is called {wanted}")


def _architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    names = config.get("architectures")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _sizes(
    format: Format, weights_bytes: int, config: Mapping[str, Any], runtime: str, precision: str
) -> tuple[int, int, int]:
    """Bytes on disk once prepared, in memory to prepare, in memory to serve."""
    if format not in CONVERTED:
        return 0, 0, int(weights_bytes * _SERVE_FACTOR) + _SERVE_BYTES
    parameters = _parameters(weights_bytes, config)
    as_float32 = parameters * _DTYPE_BYTES["float32"]
    if runtime == "torch_reference":  # serves the original: nothing is made
        return 0, 0, int(as_float32 * _SERVE_FACTOR) + _SERVE_BYTES + _TORCH_BYTES
    prepared = int(parameters * _PREPARED_BYTES[precision]) + _TOKENIZER_BYTES
    factor = _DIRECT_FACTOR if runtime == "openvino_seq2seq" else _PREPARE_FACTOR
    prepare = int(as_float32 * factor) + _PREPARE_BYTES
    return prepared, prepare, int(prepared * _SERVE_FACTOR) + _SERVE_BYTES


def _draft_bytes(
    choice: Choice, weights_bytes: int, config: Mapping[str, Any], runtime: str
) -> int:
    """A pickle's weights as safetensors, and an exporter's graph in float32."""
    if choice.format not in CONVERTED:
        return 0
    copied = weights_bytes if choice.format == "pickle" else 0
    exported = runtime in ("openvino_encoder", "openvino_llm")
    return copied + (int(4.0 * _parameters(weights_bytes, config)) if exported else 0)


def _parameters(weights_bytes: int, config: Mapping[str, Any]) -> float:
    """Older checkpoints name no type: they are float32."""
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return weights_bytes / _DTYPE_BYTES.get(dtype.removeprefix("torch."), 4.0)


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return (", ".join(listed[:_SHOWN]) or "nothing") + more
