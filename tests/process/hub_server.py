"""A hub on loopback that the real `huggingface_hub` client believes in.

    with HubServer(tmp_path / "hub") as hub:      # the folder holds owner/name/files...
        hub.add("owner/name", {"config.json": b"{}", "model.safetensors": weights})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)

It serves what lies in the folder at the time of the request: every repository has one commit (a
hash of its content), which `main` and what `name_revision` adds stand for. As on the true hub,
small files come by a relative redirect with git's hash as their ETag, and large ones (by suffix or
size) by a redirect to another host, with their sha256. Ranges are served.

What goes wrong is switched on by place: `owner/name` for questions about a repository,
`owner/name/file` for a file. `requests` has what was asked.
"""

import hashlib
import json
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 1_000_000
LARGE_SUFFIXES = {".safetensors", ".bin", ".gguf", ".onnx", ".h5", ".msgpack"}
CHUNK_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. place: owner/name or owner/name/file; on_cdn: at the host of large files."""

    method: str
    place: str
    range: str | None
    authorization: str | None
    on_cdn: bool


@dataclass(slots=True)
class _Fault:
    """times: how often it happens; None for always."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    is_silent: bool = False
    times: int | None = None


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size: int
    sha256: str
    git_sha1: str

    @property
    def is_large(self) -> bool:
        return self.path.suffix in LARGE_SUFFIXES or self.size >= LARGE_BYTES

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_large else self.git_sha1


class HubServer:
    """Serves from entry to exit of `with`, on a free port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[Asked] = []
        self.token: str | None = None
        """Asked of everybody, where it is set."""
        self._faults: dict[str, _Fault] = {}
        self._healed = threading.Event()
        self._contents: dict[str, bytes] = {}
        self._claims: dict[str, int] = {}
        self._revisions: dict[tuple[str, str], str] = {}
        self._hashes: dict[tuple[Path, int, int], _File] = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def cdn_url(self) -> str:
        """Another host to the client, which must not send its token there."""
        return f"http://localhost:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """May be called early, to be a hub that is not there."""
        self._healed.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    # --- What it holds

    def add(self, repo: str, files: Mapping[str, bytes]) -> str:
        """Write files of a repository; its commit."""
        for name, content in files.items():
            path = self.folder / repo / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return self.commit(repo)

    def commit(self, repo: str) -> str:
        listed = "\n".join(f"{name} {file.etag}" for name, file in self.files(repo).items())
        return hashlib.sha1(f"{repo}\n{listed}".encode()).hexdigest()

    def name_revision(self, repo: str, revision: str) -> None:
        """A further name of the commit of now: a tag, say."""
        self._revisions[repo, revision] = self.commit(repo)

    def files(self, repo: str) -> dict[str, _File]:
        root = self.folder / repo
        return {
            path.relative_to(root).as_posix(): self._look(path)
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }

    def _look(self, path: Path) -> _File:
        stat = path.stat()
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._hashes:
            sha256, git_sha1 = hashlib.sha256(), hashlib.sha1(f"blob {stat.st_size}\0".encode())
            with path.open("rb") as content:
                while chunk := content.read(2**20):
                    sha256.update(chunk)
                    git_sha1.update(chunk)
            self._hashes[key] = _File(path, stat.st_size, sha256.hexdigest(), git_sha1.hexdigest())
        return self._hashes[key]

    # --- What goes wrong

    def refuse(self, place: str, status: int, *, times: int | None = None, **headers: str) -> None:
        """Answer with this status. headers: `X_Error_Code="GatedRepo"`, `Retry_After="1"`..."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._faults[place] = _Fault(status, named, times=times)

    def cut(self, place: str, at_byte: int, *, times: int | None = None) -> None:
        """Close the connection instead of sending this byte of the file or a later one."""
        self._faults[place] = _Fault(cut_at=at_byte, times=times)

    def hold(self, place: str, at_byte: int) -> None:
        """Send nothing from this byte of the file on, and leave the connection open."""
        self._faults[place] = _Fault(cut_at=at_byte, is_silent=True)

    def serve_instead(self, place: str, content: bytes) -> None:
        """Another content under the same name and hash."""
        self._contents[place] = content

    def claim(self, place: str, size: int) -> None:
        """List the file with this size."""
        self._claims[place] = size

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self._healed.set()
        self._healed = threading.Event()
        self._faults.clear()
        self._contents.clear()
        self._claims.clear()

    # --- For tests

    def asked(self, method: str = "GET") -> list[str]:
        """Places, in order, once per run of equal ones (a redirect is two requests)."""
        places = [request.place for request in self.requests if request.method == method]
        return [p for i, p in enumerate(places) if i == 0 or places[i - 1] != p]

    def ranges(self, place: str) -> list[str | None]:
        """What of a large file was asked for, of the host that has it."""
        return [r.range for r in self.requests if r.place == place and r.on_cdn]

    # --- For the handler

    def fault_at(self, place: str, *, is_cut: bool) -> _Fault | None:
        fault = self._faults.get(place)
        if fault is None or fault.times == 0 or (fault.cut_at is not None) != is_cut:
            return None
        if fault.times is not None:
            fault.times -= 1
        return fault

    def wait_for_healing(self) -> None:
        self._healed.wait(timeout=60)

    def content_at(self, place: str) -> bytes:
        repo, name = split_place(place)
        return self._contents.get(place) or (self.folder / repo / name).read_bytes()

    def resolve(self, repo: str, revision: str) -> str | None:
        commit = self.commit(repo)
        known = {"main": commit, commit: commit}
        return known.get(revision) or self._revisions.get((repo, revision))

    def listing(self, repo: str) -> list[dict[str, Any]]:
        return [
            {
                "rfilename": name,
                "size": (size := self._claims.get(f"{repo}/{name}", file.size)),
                "blobId": file.git_sha1,
            }
            | (
                {"lfs": {"sha256": file.sha256, "size": size, "pointerSize": 130}}
                if file.is_large
                else {}
            )
            for name, file in self.files(repo).items()
        ]


def split_place(place: str) -> tuple[str, str]:
    owner, name, *rest = place.split("/")
    return f"{owner}/{name}", "/".join(rest)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was ended in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        match parts:
            case ["api", "resolve-cache", "models", owner, name, _, *file]:
                self._small("/".join((owner, name, *file)))
            case ["api", "models", owner, name, *rest]:
                self._api(f"{owner}/{name}", rest)
            case ["cdn", owner, name, *file]:
                self._content("/".join((owner, name, *file)), on_cdn=True)
            case [owner, name, "resolve", revision, *file]:
                self._resolve(f"{owner}/{name}", revision, "/".join(file))
            case _:
                self._send(404)

    # --- Answers

    def _api(self, repo: str, rest: list[str]) -> None:
        if self._stops(repo, on_cdn=False):
            return
        revision = rest[1] if len(rest) == 2 and rest[0] in {"revision", "tree"} else "main"
        commit = self.server.hub.resolve(repo, revision)
        if commit is None:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        listed = self.server.hub.listing(repo)
        if rest[:1] == ["tree"]:
            body: Any = [_in_tree(entry) for entry in listed]
        else:
            body = {"id": repo, "modelId": repo, "sha": commit, "siblings": listed, "tags": []}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        place, hub = f"{repo}/{name}", self.server.hub
        if self._stops(place, on_cdn=False):
            return
        commit = hub.resolve(repo, revision)
        if commit is None:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        headers = {"X-Repo-Commit": commit}
        file = hub.files(repo).get(name)
        if file is None:
            return self._send(404, headers | {"X-Error-Code": "EntryNotFound"})
        if file.is_large:
            headers |= {
                "X-Linked-ETag": f'"{file.sha256}"',
                "X-Linked-Size": str(file.size),
                "Location": f"{hub.cdn_url}/cdn/{place}",
            }
            return self._send(302, headers)
        target = f"/api/resolve-cache/models/{repo}/{commit}/{name}"
        self._send(307, headers | {"Location": target})

    def _small(self, place: str) -> None:
        repo, name = split_place(place)
        self._note(place, on_cdn=False)
        file = self.server.hub.files(repo)[name]
        headers = {"X-Repo-Commit": self.server.hub.commit(repo), "ETag": f'"{file.etag}"'}
        self._content(place, headers)

    def _content(
        self, place: str, headers: dict[str, str] | None = None, *, on_cdn: bool = False
    ) -> None:
        if on_cdn:
            self._note(place, on_cdn)
        content = self.server.hub.content_at(place)
        first, status, headers = 0, 200, dict(headers or {})
        if (asked := self.headers.get("Range")) and asked.startswith("bytes="):
            first, status = int(asked[6:].partition("-")[0]), 206
            if first >= len(content):
                return self._send(416, {"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        fault = None
        if self.command == "GET":
            fault = self.server.hub.fault_at(place, is_cut=True)
        self._send(status, headers, content[first:], fault=fault, first=first)

    def _stops(self, place: str, *, on_cdn: bool) -> bool:
        """Note the request; whether it has been answered by what goes wrong here."""
        self._note(place, on_cdn)
        hub = self.server.hub
        repo, _ = split_place(place)
        if fault := hub.fault_at(place, is_cut=False):
            self._send(fault.status, fault.headers)
        elif not (hub.folder / repo).is_dir():
            self._send(404, {"X-Error-Code": "RepoNotFound"})
        elif hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._send(401, {"X-Error-Message": "Invalid username or password."})
        else:
            return False
        return True

    def _note(self, place: str, on_cdn: bool) -> None:
        given = self.headers.get
        asked = Asked(self.command, place, given("Range"), given("Authorization"), on_cdn)
        self.server.hub.requests.append(asked)

    def _send(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        fault: _Fault | None = None,
        first: int = 0,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = body
        if fault is not None and fault.cut_at is not None:
            sent = body[: max(0, fault.cut_at - first)]
        for start in range(0, len(sent), CHUNK_BYTES):
            self.wfile.write(sent[start : start + CHUNK_BYTES])
        if len(sent) < len(body):
            self.wfile.flush()
            if fault is not None and fault.is_silent:
                self.server.hub.wait_for_healing()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


def _in_tree(entry: dict[str, Any]) -> dict[str, Any]:
    lfs = entry.get("lfs")
    found = {"type": "file", "path": entry["rfilename"], "size": entry["size"]}
    found["oid"] = entry["blobId"]
    if lfs:
        found["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": 130}
    return found
