"""A disk of a few megabytes that only one server sees, to be filled up or made read-only.

It is a tmpfs in a mount namespace of its own, which any user may make on most machines. The kernel
refuses to remount a file system read-only while files on it are open for writing, so `read_only`
puts a read-only view over it: nothing can be opened for writing, made, renamed or deleted then, but
what is open already can still be written.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

FILLER = "filler"
_BLOCK = bytes(2**16)


class SmallDisk:
    """Mounted at `folder` for those who are started by `entering`."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        mount = f"mount -t tmpfs -o size={megabytes}m,mode=700 small '{folder}'"
        self._holder = subprocess.Popen(
            ("unshare", "--map-root-user", "--mount", "sh", "-c", f"{mount} && echo up && cat"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"up\n":
            self.close()
            raise OSError("no file system can be mounted in a namespace of our own")

    @property
    def path(self) -> Path:
        """The folder as it is inside, for whoever is outside."""
        return Path(f"/proc/{self._holder.pid}/root{self._folder}")

    def entering(self, *command: str) -> tuple[str, ...]:
        """The command inside: its process is the one that is started."""
        target = f"--target={self._holder.pid}"
        inside = ("sh", "-c", 'cd "$0" && exec "$@"', str(self._folder.parent), *command)
        return ("nsenter", "--preserve-credentials", "--user", "--mount", target, *inside)

    def fill(self) -> None:
        """Not a byte is left."""
        for size in (len(_BLOCK), 4096):
            with contextlib.suppress(OSError), (self.path / FILLER).open("ab", 0) as file:
                while file.write(_BLOCK[:size]) == size:
                    pass

    def empty(self) -> None:
        (self.path / FILLER).unlink()

    def read_only(self) -> None:
        folder = str(self._folder)
        self._run("mount", "--bind", folder, folder)
        self._run("mount", "-o", "remount,bind,ro", folder)

    def writable(self) -> None:
        """Files that were opened while it was not stay as they were opened."""
        self._run("mount", "-o", "remount,bind,rw", str(self._folder))

    def close(self) -> None:
        for stream in (self._holder.stdin, self._holder.stdout):
            if stream is not None:
                stream.close()
        self._holder.wait()

    def _run(self, *command: str) -> None:
        subprocess.run(self.entering(*command), check=True)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Raises OSError where the machine does not allow it."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        raise OSError("unshare and nsenter are not installed")
    disk = SmallDisk(folder, megabytes)
    try:
        yield disk
    finally:
        disk.close()
