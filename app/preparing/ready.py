"""Files that a runtime serves as they lie: nothing is made, and no library is imported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.core.checkpoint import Manifest
from app.core.errors import CannotLoad
from app.preparing.facts import Facts, architecture_of, facts_of
from app.preparing.folder import read_object, require
from app.preparing.generation import generation_defaults, one_id
from app.preparing.job import PrepareJob
from app.preparing.lengths import longest_input
from app.preparing.manifests import manifest_of

GGUF_TOKENS = 2048  # where the catalog names no context
GENAI_FILES = ("openvino_model.xml", "openvino_tokenizer.xml", "openvino_detokenizer.xml")
TOKENIZER = "tokenizer.json"
SHOWN = 6  # names of files that an error lists


def ready_manifest(job: PrepareJob) -> Manifest:
    """Raises CannotLoad for a file that is missing or a kind that the format cannot give."""
    source = Path(job.source_folder).resolve()
    model = _find(job, source)
    files = {"model": str(model)}
    if job.kind in ("vectors", "scores", "sequences"):
        why = ": files that are served as they lie must bring their tokenizer"
        files["tokenizer"] = str(require(source, TOKENIZER, why))
    return manifest_of(job, _facts(job, source), files)


def _find(job: PrepareJob, source: Path) -> Path:
    finders: dict[str, Callable[[PrepareJob, Path], Path]] = {
        "openvino": _openvino,
        "onnx": _onnx,
        "ctranslate2": _ctranslate2,
        "gguf": _gguf,
    }
    return finders[job.format](job, source)


def _openvino(job: PrepareJob, source: Path) -> Path:
    if job.kind == "tokens":
        for name in GENAI_FILES:
            require(source, name, " beside its graph, which the pipeline needs")
        return source
    if job.kind == "sequences":
        return source if list(source.glob("*.xml")) else require(source, "openvino_model.xml")
    return _one(source, ("openvino_model.xml", "openvino/openvino_model.xml"), ".xml")


def _onnx(job: PrepareJob, source: Path) -> Path:
    if job.kind in ("tokens", "sequences"):
        raise CannotLoad(f"ONNX files cannot give {job.kind}; vectors, scores and tensors they can")
    return _one(source, ("model.onnx", "onnx/model.onnx"), ".onnx")


def _ctranslate2(job: PrepareJob, source: Path) -> Path:
    if job.kind != "sequences":
        raise CannotLoad(f"CTranslate2 files are served to give sequences, not {job.kind}")
    require(source, "model.bin")
    return source


def _gguf(job: PrepareJob, source: Path) -> Path:
    if job.kind != "tokens":
        raise CannotLoad(f"GGUF files are served to give tokens, not {job.kind}")
    return _one(source, (), ".gguf")


def _one(source: Path, usual: tuple[str, ...], suffix: str) -> Path:
    """The file at its usual place, or else the only one with the suffix."""
    for name in usual:
        if (source / name).is_file():
            return source / name
    found = sorted(source.rglob(f"*{suffix}"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise CannotLoad(f"the checkpoint has no {suffix} file")
    names = ", ".join(path.relative_to(source).as_posix() for path in found[:SHOWN])
    raise CannotLoad(f"the checkpoint has {len(found)} {suffix} files, and one is served: {names}")


def _facts(job: PrepareJob, source: Path) -> Facts:
    if job.format == "gguf":
        options = {"max_tokens": job.max_tokens or GGUF_TOKENS, "precision": job.precision}
        return Facts("gguf", options)
    if job.kind == "tensors":
        return Facts(architecture_of(read_object(source, "config.json")))
    if job.format == "ctranslate2":
        return _ctranslate2_facts(job, source)
    facts = facts_of(job)
    if job.kind == "vectors" and not (source / "modules.json").is_file():
        facts.runtime_options.pop("pooling")  # the graph may have its own, which the runtime sees
    return facts


def _ctranslate2_facts(job: PrepareJob, source: Path) -> Facts:
    """The converter's config.json replaces the checkpoint's, and names tokens by their text."""
    config = read_object(source, "config.json")
    generation = generation_defaults(source, config, task=job.task)
    ids = {"decoder_start": generation.get("decoder_start_token_id")}
    ids |= {"eos": generation.get("eos_token_id"), "pad": generation.get("pad_token_id")}
    vocabulary: dict[str, int] | None = None
    for name, key, text in (
        ("decoder_start", "decoder_start_token", config.get("decoder_start_token")),
        ("eos", "eos_token", config.get("eos_token")),
        ("pad", "pad_token", config.get("pad_token", "<pad>")),
    ):
        if isinstance(ids[name], int):
            continue
        vocabulary = _vocabulary(source) if vocabulary is None else vocabulary
        number = vocabulary.get(str(text))
        if number is None and name != "pad":
            raise CannotLoad(
                f"neither generation_config.json nor config.json's {key} names a token"
            )
        ids[name] = ids["eos"] if number is None else number
    longest = longest_input(source, config, job.max_tokens)
    options = {"max_tokens": longest, "precision": job.precision, **ids}
    forced = one_id(generation, "forced_eos_token_id")
    if forced is not None:
        options["forced_eos"] = forced
    return Facts(architecture_of(config), options, {}, generation)


def _vocabulary(source: Path) -> dict[str, int]:
    """Token to id, as tokenizer.json has them."""
    model: Any = read_object(source, TOKENIZER).get("model", {})
    table = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(table, list):  # Unigram: pairs of token and score, in order
        return {str(entry[0]): number for number, entry in enumerate(table)}
    added = read_object(source, TOKENIZER).get("added_tokens", [])
    extra = {str(token["content"]): int(token["id"]) for token in added}
    return {**(table if isinstance(table, dict) else {}), **extra}
