"""Servers of ours that ask other servers, for the tests."""

import socket
from pathlib import Path
from typing import Any

import yaml

KEY = "sk-of-our-own-4711"


def catalog_over(folder: Path, port: int, task: str = "generate", **options: Any) -> Path:
    """One model, `far:v1`, which the server at that port answers for."""
    upstream = {"base_url": f"http://127.0.0.1:{port}/v1", "health_interval_s": 0.2, **options}
    document = {
        "artefacts": {"there": {"runtime": "upstream", "runtime_options": upstream}},
        "models": {"far": {"v1": {"task": task, "artefact": "there"}}},
    }
    path = folder / f"catalog-{port}-{task}.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def free_port() -> int:
    """One that nobody listens on; for a server that comes, goes and comes again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
