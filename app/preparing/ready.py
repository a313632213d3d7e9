"""Files that a runtime serves as they lie: nothing is converted, and PyTorch is not needed."""

from collections.abc import Callable
from pathlib import Path

from app.core.checkpoint import Manifest
from app.core.errors import CannotLoad
from app.preparing.facts import Facts, architecture_of, facts_of
from app.preparing.folder import read_object, require
from app.preparing.job import PrepareJob
from app.preparing.manifests import manifest_of
from app.preparing.ready_ctranslate2 import ctranslate2_facts, is_sentencepieces, write_pieces
from app.preparing.tokenizing import TOKENIZER

GGUF_TOKENS = 2048  # where the catalog names no context
GENAI_FILES = ("openvino_model.xml", "openvino_tokenizer.xml", "openvino_detokenizer.xml")
SHOWN = 6  # names of files that an error lists


def ready_manifest(job: PrepareJob) -> Manifest:
    """Raises CannotLoad for a file that is missing or a kind that the format cannot give."""
    source = Path(job.source_folder).resolve()
    model = _find(job, source)
    files = {"model": str(model)}
    if job.kind in ("vectors", "scores", "sequences"):
        files["tokenizer"] = _tokenizer(job, source)
    return manifest_of(job, _facts(job, source), files)


def _tokenizer(job: PrepareJob, source: Path) -> str:
    if not (source / TOKENIZER).is_file() and is_sentencepieces(job, source):
        return write_pieces(job, source)
    why = ": files that are served as they lie must bring their tokenizer"
    return str(require(source, TOKENIZER, why))


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
        return ctranslate2_facts(job, source)
    facts = facts_of(job)
    if job.kind == "vectors" and not (source / "modules.json").is_file():
        facts.runtime_options.pop("pooling")  # the graph may have its own, which the runtime sees
    return facts
