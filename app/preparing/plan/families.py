"""Which families of checkpoints can be prepared for which kind and runtime."""

from collections.abc import Mapping
from typing import Any

from app.core.checkpoint import Kind
from app.core.errors import CannotLoad
from app.preparing.job import Format
from app.preparing.plan.files import CONVERTED, some

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


def check_convertible(config: Mapping[str, Any], kind: Kind, runtime: str) -> str:
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


def check_ready_made(format: Format, config: Mapping[str, Any], kind: Kind, runtime: str) -> str:
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
        has = f"it is {some(names)}" if names else "its config.json names no architecture"
        wanted = " or ".join(f"...{head}" for head in heads)
        raise CannotLoad(f"{has}; {kind} need an architecture that is called {wanted}")


def _architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    names = config.get("architectures")
    return tuple(map(str, names)) if isinstance(names, list) else ()
