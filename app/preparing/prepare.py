"""The prepare step: reads what the checkpoint says, makes what the runtime needs, compares both."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from app.core.checkpoint import MANIFEST, Kind, Manifest
from app.core.errands import Tell
from app.core.errors import CannotLoad
from app.preparing.facts import facts_of
from app.preparing.folder import read_object, said_plainly
from app.preparing.job import PrepareJob
from app.preparing.making import Making
from app.preparing.manifests import manifest_of
from app.preparing.pickled import unpickle_apart
from app.preparing.plan.files import CONVERTED
from app.preparing.ready import ready_manifest
from app.preparing.workspace import check_weights, link_files
from app.runtimes.catalogue import runtime_class


@dataclass(frozen=True, slots=True)
class Maker:
    """module:function of what makes the files, and how many steps it tells of."""

    implementation: str
    steps: int
    is_compared: bool = True


_OPENVINO = "app.preparing.openvino_models"
MAKERS: Mapping[tuple[str, Kind], Maker] = {
    ("openvino_encoder", "scores"): Maker(f"{_OPENVINO}:make_encoder", 2),
    ("openvino_encoder", "vectors"): Maker(f"{_OPENVINO}:make_encoder", 2),
    ("openvino_llm", "tokens"): Maker(f"{_OPENVINO}:make_decoder", 2),
    ("ctranslate2_seq2seq", "sequences"): Maker("app.preparing.ctranslate2_models:make_seq2seq", 1),
    ("openvino_seq2seq", "sequences"): Maker("app.preparing.bart_models:make_bart", 1),
    **{
        ("torch_reference", kind): Maker(
            "app.preparing.reference:point_to_source", 1, is_compared=False
        )
        for kind in ("scores", "vectors", "tokens", "sequences")
    },
}


def prepare(job: PrepareJob, tell: Tell) -> Manifest:
    """What is now in the job's out_folder; its manifest.json was written last."""
    began = time.monotonic()
    if job.format in CONVERTED:
        manifest = _convert(job, tell)
    else:
        manifest = ready_manifest(job)
    manifest = msgspec.structs.replace(manifest, prepare_s=round(time.monotonic() - began, 1))
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (Path(job.out_folder) / MANIFEST).write_bytes(content)
    return manifest


def _convert(job: PrepareJob, tell: Tell) -> Manifest:
    maker = MAKERS.get((job.runtime, job.kind))
    if maker is None:
        raise CannotLoad(f"no checkpoint can be prepared to give {job.kind} in {job.runtime}")
    facts = facts_of(job)
    if maker.is_compared:
        runtime_class(job.runtime, job.kind)  # a missing library is better known before the work
    out = Path(job.out_folder).resolve()
    with tempfile.TemporaryDirectory(dir=out, prefix="work-") as temporary:
        work = Path(temporary) / "checkpoint"
        work.mkdir()
        total = maker.steps + (job.format == "pickle") + 2 * maker.is_compared
        making = Making(job, out, work, tell, total)
        _fill(making)
        _check_architecture(making)
        module, _, name = maker.implementation.partition(":")
        make: Callable[[Making], dict[str, str]] = getattr(import_module(module), name)
        parity = None
        if maker.is_compared:
            from app.preparing.original import original_answers
            from app.preparing.parity import measure

            making.say("reading")
            original = original_answers(making, facts)
            files = make(making)
            making.say("checking beside the original")
            parity = measure(job, facts, files, original)
        else:
            files = make(making)
    packages: tuple[str, ...] = import_module(module).PACKAGES
    return manifest_of(job, facts, files, parity=parity, tools=_versions(packages))


def _fill(making: Making) -> None:
    source = Path(making.job.source_folder).resolve()
    link_files(source, making.work, weights=making.job.format == "safetensors")
    if making.job.format == "pickle":
        making.say("reading the pickle in a process of its own")
        unpickle_apart(source, making.work)
    check_weights(making.work)


def _check_architecture(making: Making) -> None:
    """Raises CannotLoad for what transformers does not know: its own code would be needed."""
    with said_plainly("importing torch and transformers"):
        import torch
        import transformers
        from transformers import CONFIG_MAPPING

        torch.set_num_threads(making.job.threads)
        transformers.utils.logging.set_verbosity_error()
    config: Mapping[str, Any] = read_object(making.work, "config.json")
    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING:
        own = "; code that a checkpoint brings along is never run" if "auto_map" in config else ""
        raise CannotLoad(
            f"model_type {model_type!r} is not an architecture that transformers "
            f"{transformers.__version__} knows{own}"
        )


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
