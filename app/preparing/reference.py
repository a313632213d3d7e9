"""The checkpoint as it is, for the runtime that runs it with transformers."""

from pathlib import Path

from app.preparing.making import Making
from app.preparing.tokenizing import TOKENIZER, write_tokenizer

PACKAGES = ("torch", "transformers")


def point_to_source(making: Making) -> dict[str, str]:
    """Nothing is converted; a tokenizer's file is made where tokenizer.json is missing.

    Weights that were a pickle are the one thing that has to be kept: the runtime reads none.
    """
    source = Path(making.job.source_folder).resolve()
    files = {"model": str(source), "tokenizer": str(source / TOKENIZER)}
    making.say("pointing to the checkpoint's own files")
    if not (source / TOKENIZER).is_file():
        files["tokenizer"] = write_tokenizer(making.tokenizer, making.out)
    if making.job.format == "pickle":
        folder = making.out / "model"
        making.work.rename(folder)
        files["model"] = folder.name
    return files
