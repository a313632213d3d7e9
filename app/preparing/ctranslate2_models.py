"""Encoder-decoders in CTranslate2's form."""

import shutil
from collections.abc import Mapping

from app.core.errors import CannotLoad
from app.preparing.folder import said_plainly
from app.preparing.making import Making
from app.preparing.tokenizing import write_tokenizer

QUANTIZATION: Mapping[str, str] = {"int8": "int8", "fp32": "float32"}
KEPT = ("generation_config.json",)
PACKAGES = ("torch", "transformers", "ctranslate2")


def make_seq2seq(making: Making) -> dict[str, str]:
    precision = making.job.precision
    if precision not in QUANTIZATION:
        raise CannotLoad(
            f"precision {precision} is for decoders; an encoder-decoder takes int8 or fp32"
        )
    folder = making.out / "model"
    making.say("converting")
    with said_plainly("converting to CTranslate2"):
        from ctranslate2.converters import TransformersConverter

        converter = TransformersConverter(str(making.work), low_cpu_mem_usage=True)
        converter.convert(str(folder), quantization=QUANTIZATION[precision])
    for name in KEPT:
        if (making.work / name).is_file():
            shutil.copyfile(making.work / name, folder / name)
    return {"model": folder.name, "tokenizer": write_tokenizer(making.tokenizer, making.out)}
