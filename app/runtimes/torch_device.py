"""Where torch computes, in which numbers, and what happens when the GPU's memory is full."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from app.core.errors import CannotLoad, ServingError

Result = TypeVar("Result")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_gpu = threading.Lock()  # one batch at a time: two would only halve each other's memory


@dataclass(frozen=True, slots=True)
class Placement:
    """The device of a model and the type of its weights."""

    device: torch.device
    dtype: torch.dtype


def place(device: str, dtype: str) -> Placement:
    """`auto`: a CUDA GPU where there is one, else the CPU; bfloat16 on a GPU that computes in it,
    float16 on an older one, float32 on the CPU. Raises CannotLoad.
    """
    has_cuda = torch.cuda.is_available()
    try:
        chosen = torch.device(device if device != "auto" else "cuda" if has_cuda else "cpu")
    except RuntimeError as error:
        raise CannotLoad(f"option device is {device!r}; use auto, cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise CannotLoad(f"option device is {device!r}; use auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise CannotLoad(
            f"option device is {device!r}, but torch finds {torch.cuda.device_count()} CUDA GPUs"
        )
    if dtype == "auto":
        return Placement(chosen, _usual_dtype(chosen))
    if dtype not in DTYPES:
        raise CannotLoad(f"option dtype is {dtype!r}; use auto, {', '.join(DTYPES)}")
    return Placement(chosen, DTYPES[dtype])


def _usual_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bfloat16 else torch.float16


def compute(placement: Placement, threads: int, work: Callable[[], Result]) -> Result:
    """`work` without gradients: on the GPU alone, on the CPU with `threads` threads.

    torch keeps the number of threads per calling thread, so streams that run side by side, and
    runtimes of different plans, do not disturb each other. Raises ServingError when the GPU's
    memory does not suffice; the next, smaller batch finds it free again.
    """
    if placement.device.type == "cpu":
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return work()
    with _gpu:
        try:
            with torch.inference_mode():
                return work()
        except torch.OutOfMemoryError as error:
            reason = str(error).partition("\n")[0]
        # Only now: the error's frames held the tensors of the batch.
        torch.cuda.empty_cache()
        raise ServingError(f"a batch did not fit into the GPU's memory: {reason}")
