"""Encoders and decoders as OpenVINO's graphs, through optimum's exporter and NNCF."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.core.checkpoint import Kind
from app.core.errors import CannotLoad
from app.preparing.folder import said_plainly
from app.preparing.making import Making
from app.preparing.tokenizing import write_tokenizer

GRAPH = "openvino_model.xml"
INT4_GROUP = 128  # weights per scale
EXPORTED_AS: Mapping[Kind, str] = {
    "scores": "text-classification",
    "vectors": "feature-extraction",
    "tokens": "text-generation-with-past",
}
# What the pipeline reads beside its graphs.
DECODER_FILES = (
    GRAPH,
    "openvino_tokenizer.xml",
    "openvino_detokenizer.xml",
    "config.json",
    "generation_config.json",
)
PACKAGES = ("torch", "transformers", "optimum-intel", "nncf", "openvino", "openvino-tokenizers")


def make_encoder(making: Making) -> dict[str, str]:
    if making.job.precision == "int4":
        raise CannotLoad("precision int4 is for decoders; an encoder takes int8 or fp32")
    draft = making.draft("exported")
    _export(making, draft)
    _compress(making, draft / GRAPH, making.out / GRAPH)
    return {"model": GRAPH, "tokenizer": write_tokenizer(making.tokenizer, making.out)}


def make_decoder(making: Making) -> dict[str, str]:
    draft, folder = making.draft("exported"), making.out / "model"
    folder.mkdir()
    _export(making, draft)
    for path in sorted(draft.iterdir()):
        if path.is_file() and path.stem != Path(GRAPH).stem:
            shutil.move(path, folder / path.name)
    _compress(making, draft / GRAPH, folder / GRAPH)
    if missing := [name for name in DECODER_FILES if not (folder / name).is_file()]:
        raise CannotLoad(f"the exporter did not write {', '.join(missing)}")
    return {"model": folder.name}


def _export(making: Making, draft: Path) -> None:
    making.say("exporting")
    with said_plainly("exporting to OpenVINO"):
        import torch
        from optimum.exporters.openvino import main_export
        from optimum.intel.openvino.configuration import OVConfig

        main_export(
            str(making.work),
            output=str(draft),
            task=EXPORTED_AS[making.job.kind],
            library_name="transformers",
            trust_remote_code=False,
            local_files_only=True,
            stateful=making.job.kind == "tokens",
            convert_tokenizer=making.job.kind == "tokens",
            # Without it, models of a billion weights would be compressed on the way.
            ov_config=OVConfig(dtype="fp32"),
            model_loading_kwargs={"torch_dtype": torch.float32, "use_safetensors": True},
        )


def _compress(making: Making, source: Path, target: Path) -> None:
    """Weights to the precision asked for; activations stay the runtime's to handle."""
    making.say("compressing")
    with said_plainly("compressing the weights"):
        import nncf
        import openvino as ov

        model = ov.Core().read_model(source)
        for scheme in _schemes(nncf)[making.job.precision]:
            model = nncf.compress_weights(model, **scheme)
        ov.save_model(model, target, compress_to_fp16=False)


def _schemes(nncf: Any) -> dict[str, list[dict[str, Any]]]:
    """int8 is symmetric: with a zero point OpenVINO's CPU plugin multiplies more slowly.

    int4 keeps embeddings and the last layer at int8, which is what NNCF calls its backup. Where a
    layer's width is no multiple of the group (576 of SmolLM2-135M), its group is the next smaller
    power of two that divides it.
    """
    return {
        "fp32": [],
        "int8": [{"mode": nncf.CompressWeightsMode.INT8_SYM}],
        "int4": [
            {
                "mode": nncf.CompressWeightsMode.INT4_SYM,
                "group_size": INT4_GROUP,
                "ratio": 1.0,
                "backup_mode": nncf.BackupMode.INT8_SYM,
                "advanced_parameters": nncf.AdvancedCompressionParameters(
                    group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
                ),
            }
        ],
    }
