"""Reads weights that exist only as a pickle: `python -m app.preparing.pickled`, an errand.

A pickle is a program. torch's `weights_only` runs none of it but what builds tensors, and this
process has nothing else to do, so that a flaw there meets little. What it writes is safetensors.
"""

import ctypes
import json
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec

from app.core.errands import Finished, News, Refused, Tell, serve_errand
from app.core.errors import CannotLoad, from_code
from app.preparing.folder import first_line, read_object
from app.preparing.workspace import INDEX, WEIGHTS

PICKLE = "pytorch_model.bin"
PICKLE_INDEX = f"{PICKLE}.index.json"
PR_SET_PDEATHSIG = 1
# What torch says of a pickle that names something else than tensors.
UNWANTED = re.compile(r"GLOBAL (\S+)|(?:class|function|type) ([\w.]+)")
_decoder: msgspec.json.Decoder[News | Finished | Refused] = msgspec.json.Decoder(
    News | Finished | Refused
)


class UnpickleJob(msgspec.Struct, frozen=True):
    """Write the weights of `source_folder` as safetensors into `out_folder`."""

    source_folder: str
    out_folder: str


def unpickle_apart(source: Path, out: Path) -> None:
    """Have it done in another process. Raises CannotLoad with the reason."""
    child = subprocess.run(
        [sys.executable, "-m", "app.preparing.pickled"],
        input=msgspec.json.encode(UnpickleJob(str(source), str(out))),
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        check=False,
    )
    lines = child.stdout.splitlines()
    match _decoder.decode(lines[-1]) if lines else None:
        case Finished():
            return
        case Refused(code, message):
            raise from_code(code, message)
        case _:
            raise CannotLoad(f"the process that reads the pickle ended with {child.returncode}")


def unpickle(job: UnpickleJob, tell: Tell) -> list[str]:
    """The errand: names of the files written."""
    import torch

    torch.set_num_threads(1)
    source, out = Path(job.source_folder), Path(job.out_folder)
    table = read_object(source, PICKLE_INDEX).get("weight_map")
    if (source / PICKLE).is_file() or not isinstance(table, dict):
        _convert(source / PICKLE, out / WEIGHTS)
        return [WEIGHTS]
    names = sorted({str(name) for name in table.values()})
    renamed = {
        name: f"model-{number:05}-of-{len(names):05}.safetensors"
        for number, name in enumerate(names, 1)
    }
    where: dict[str, str] = {}
    for done, (name, new) in enumerate(renamed.items()):
        tell(News("reading the pickle", done, len(names)))
        where |= dict.fromkeys(_convert(source / name, out / new), new)
    index = {"metadata": {}, "weight_map": where}
    (out / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return [INDEX, *renamed.values()]


def _convert(source: Path, target: Path) -> list[str]:
    """Names of the tensors."""
    from safetensors.torch import save_file

    tensors = _read(source)
    seen: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        if place in seen or not tensor.is_contiguous():  # a file of its own has no shared parts
            tensors[name] = tensor.clone().contiguous()
        seen.add(place)
    save_file(tensors, target, metadata={"format": "pt"})
    return list(tensors)


def _read(source: Path) -> dict[str, Any]:
    import torch

    if not source.is_file():
        raise CannotLoad(f"the checkpoint has no {source.name}")
    try:
        # Files of torch before 1.6 are not archives and cannot be mapped.
        tensors = torch.load(
            source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source)
        )
    except MemoryError:
        raise
    except Exception as error:
        raise CannotLoad(_refusal(source.name, error)) from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in tensors.items()
    ):
        raise CannotLoad(f"{source.name} is not a table of names and tensors")
    return dict(tensors)


def _refusal(name: str, error: Exception) -> str:
    if "weights_only" not in str(error) and "Weights only" not in str(error):
        return f"{name} cannot be read: {first_line(error)}"
    found = UNWANTED.search(str(error))
    what = next((group for group in found.groups() if group), "") if found else ""
    wants = f"it wants to use {what}" if what else "it holds more than tensors"
    return f"{name} is refused, nothing of it was run: {wants}"


def main() -> int:
    if sys.platform == "linux":  # its parent may be killed at any moment
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return serve_errand(UnpickleJob, unpickle)


if __name__ == "__main__":
    sys.exit(main())
