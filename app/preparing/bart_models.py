"""BART and its fine-tuned kin as graphs for `openvino_seq2seq`."""

from app.core.errors import CannotLoad
from app.preparing.bart import prepare_bart
from app.preparing.making import Making
from app.preparing.tokenizing import write_tokenizer

PACKAGES = ("openvino",)


def make_bart(making: Making) -> dict[str, str]:
    precision = making.job.precision
    if precision not in ("int8", "fp32"):
        raise CannotLoad(
            f"precision {precision} is for decoders; an encoder-decoder takes int8 or fp32"
        )
    making.say("building the graphs")
    folder = making.out / "model"
    prepare_bart(making.work, folder, precision)
    return {"model": folder.name, "tokenizer": write_tokenizer(making.tokenizer, making.out)}
