"""The disk is full or read-only, the database is gone: what callers are told meanwhile, that models
serve on, and that everything goes on afterwards without a restart."""

import contextlib
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.disks import SmallDisk, small_disk
from tests.e2e.serving import (
    COMMAND,
    ServerProcess,
    Through,
    catalog_of,
    cli,
    environment,
    plainly,
    run_cli,
)
from tests.e2e.witness import MODEL, Witness, refused_for
from tests.postgres import PostgresServer, running_postgres
from tests.processes import until

LINES = 300
BACK_S = 15.0


class Bench:
    """A server over storage that breaks, and its witness."""

    def __init__(self, folder: Path, through: Through = plainly, **settings: object) -> None:
        self._folder, self._through, self._settings = folder, through, settings
        secret = self.cli("keys", "create", "app")
        self.server = ServerProcess(
            folder,
            through(*COMMAND),
            MODEL_CATALOG=catalog_of(folder, MODEL),
            DEFAULT_MODEL=MODEL,
            **settings,
        )
        self.server.until_ready()
        usage = ("usage", "--by", "model", "--csv")
        self.witness = Witness(self.server, secret, lambda: self.cli(*usage))

    def cli(self, *arguments: str) -> str:
        return cli(self._folder, *arguments, through=self._through, **self._settings)

    def failing_cli(self, *arguments: str) -> str:
        """Its one line."""
        done = run_cli(self._folder, *arguments, through=self._through, **self._settings)
        assert done.returncode == 2 and done.stdout == "", (done.stdout, done.stderr)
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def end(self) -> None:
        self.witness.close()
        assert self.server.end() == 0
        assert self.server.other_lines == []
        tracebacks = [e for e in self.server.events if "exception" in e]
        assert tracebacks == [], "what is known needs no traceback"


@contextlib.contextmanager
def bench(folder: Path, through: Through = plainly, **settings: object) -> Iterator[Bench]:
    made = Bench(folder, through, **settings)
    try:
        yield made
    except BaseException:
        made.witness.close()
        made.server.end()
        raise
    made.end()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        with small_disk(tmp_path / "data", 16) as made:
            yield made
    except OSError as error:
        pytest.skip(str(error))


def integrity(disk: SmallDisk) -> str:
    with contextlib.closing(sqlite3.connect(disk.path / "server.db")) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


def test_a_full_disk_refuses_what_must_be_kept_and_costs_nothing_else(disk, tmp_path):
    with bench(tmp_path, disk.entering) as made:
        witness = made.witness
        assert witness.submit("good").status_code == 202
        witness.begin_batch(LINES)
        disk.fill()
        refused_for(witness.refused_submission(), "disk", "full")
        refused_for(witness.upload(1000), "disk", "full")
        assert witness.http.get(f"/jobs/{witness.jobs[0]}").status_code == 200
        assert witness.infer("bad").status_code == 200
        assert "full" in made.failing_cli("keys", "create", "other")
        assert made.cli("keys", "list")
        made.server.wait_for(lambda e: e["event"] == "batch_results_not_kept", 30)
        disk.empty()
        until(witness.is_served, "the server's recovery", BACK_S)
        assert witness.upload(1000).status_code == 200
        witness.settle()
        assert made.cli("keys", "create", "other")
    assert integrity(disk) == "ok"


def test_a_read_only_disk_refuses_what_must_be_kept_and_costs_nothing_else(disk, tmp_path):
    with bench(tmp_path, disk.entering) as made:
        witness = made.witness
        assert witness.submit("good").status_code == 202
        witness.begin_batch(LINES)
        disk.read_only()
        refused_for(witness.submit("good"), "disk", "read-only")
        refused_for(witness.upload(1), "disk", "read-only")
        assert witness.http.get(f"/jobs/{witness.jobs[0]}").status_code == 200
        assert witness.infer("bad").status_code == 200
        assert "read-only" in made.failing_cli("keys", "create", "other").lower()
        made.server.wait_for(lambda e: e["event"] == "batches_step_failed", 30)
        disk.writable()
        until(witness.is_served, "the server's recovery", BACK_S)
        assert witness.upload(1).status_code == 200
        witness.settle()
    assert integrity(disk) == "ok"


def test_a_server_stops_while_its_disk_is_read_only(disk, tmp_path):
    with bench(tmp_path, disk.entering, SHUTDOWN_GRACE_S=2) as made:
        assert made.witness.submit("good").status_code == 202
        disk.read_only()
        assert made.witness.infer("bad").status_code == 200
    assert integrity(disk) == "ok"


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        with running_postgres(Path(folder)) as server:
            yield server


def test_a_database_that_crashes_costs_nothing_but_its_own_time(postgres, tmp_path):
    with bench(tmp_path, DATABASE_URL=postgres.url()) as made:
        witness = made.witness
        assert witness.submit("good").status_code == 202
        witness.begin_batch(LINES)
        postgres.stop("immediate")
        refused_for(witness.submit("good"), "database", "reached")
        refused_for(witness.upload(1), "database", "reached")
        refused_for(witness.http.get(f"/jobs/{witness.jobs[0]}"), "database", "reached")
        assert witness.infer("bad").status_code == 200
        assert "DATABASE_URL" in made.failing_cli("keys", "list")
        postgres.start()
        until(witness.is_served, "the server's recovery", BACK_S)
        assert witness.upload(1).status_code == 200
        witness.settle()


def test_beside_postgres_a_read_only_disk_costs_files_and_batches_alone(postgres, disk, tmp_path):
    with bench(tmp_path, disk.entering, DATABASE_URL=postgres.url()) as made:
        witness = made.witness
        unread = witness.upload(1).json()["id"]
        witness.begin_batch(LINES)
        disk.read_only()
        assert witness.submit("good").status_code == 202
        refused_for(witness.upload(1), "disk", "read-only")
        assert witness.http.delete(f"/v1/files/{unread}").status_code == 200
        made.server.wait_for(lambda e: e["event"] == "batches_step_failed", 30)
        disk.writable()
        witness.settle()
        assert witness.upload(1).status_code == 200


@pytest.mark.parametrize("fault", ["fill", "read_only"])
def test_a_server_does_not_start_on_such_a_disk_and_says_so(disk, tmp_path, fault):
    getattr(disk, fault)()
    done = subprocess.run(
        disk.entering(*COMMAND),
        cwd=tmp_path,
        env=environment(MODEL_CATALOG=catalog_of(tmp_path, MODEL), DEFAULT_MODEL=MODEL),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert {"fill": "full", "read_only": "read-only"}[fault] in done.stderr.lower()
