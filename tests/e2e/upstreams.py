"""Servers of ours that ask other servers, for the tests."""

import socket
from pathlib import Path
from typing import NamedTuple

import yaml

KEY = "sk-of-our-own-4711"
KEY_VARIABLE = "FAR_KEY"


class There(NamedTuple):
    """A model of another server on this machine."""

    task: str
    port: int
    model: str


def catalog_over(folder: Path, **models: There) -> Path:
    """Models by their names here; each other server is asked often how it is."""
    document = {
        "artefacts": {
            name: {
                "runtime": "upstream",
                "runtime_options": {
                    "base_url": f"http://127.0.0.1:{there.port}/v1",
                    "model": there.model,
                    "api_key_env": KEY_VARIABLE,
                    "health_interval_s": 0.2,
                },
            }
            for name, there in models.items()
        },
        "models": {
            name: {"v1": {"task": there.task, "artefact": name}} for name, there in models.items()
        },
    }
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def free_port() -> int:
    """One that nobody listens on; for a server that comes, goes and comes again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
