"""Folders whose names must outlive a loss of power."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """What was created, renamed and deleted in it is durable then. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
