"""Gives back the memory of a weights file that an engine has mapped, read and copied."""

import ctypes
import os
from pathlib import Path

_DROP = 4  # MADV_DONTNEED of Linux


def drop_pages(file: Path) -> None:
    """Take the pages of `file` that this process has mapped read-only and shared out of its
    resident memory. Whoever reads them again gets them from the file again, so this can cost
    time but never a number. OpenVINO keeps its own rearranged copy of the weights and does not
    come back to the file, and keeps the file mapped all the same. A file that is not there, or not
    mapped, is no matter.
    """
    try:
        lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
    except OSError:  # not Linux: the pages stay
        return
    library = ctypes.CDLL(None, use_errno=True)
    for line in lines:
        addresses, rights, *_, path = line.split(maxsplit=5)
        if rights == "r--s" and path == os.fspath(file.resolve()):
            begin, end = (int(address, 16) for address in addresses.split("-"))
            library.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _DROP)
