"""A catalog whose generator has a second version: the same model with a chat template that knows
tools."""

from hashlib import sha256
from pathlib import Path

import yaml

from tests.e2e.serving import ROOT, catalog_with_caches

TEMPLATE = ROOT / "tests" / "tool_template.jinja"


def catalog_with_tools(folder: Path) -> Path:
    """The embedded models, and `generator:tools`."""
    catalog = catalog_with_caches(folder)
    document = yaml.safe_load(catalog.read_text(encoding="utf-8"))
    content = TEMPLATE.read_bytes()
    file = {
        "source": f"file://{TEMPLATE}",
        "sha256": sha256(content).hexdigest(),
        "size_bytes": len(content),
    }
    versions = document["models"]["generator"]
    versions["tools"] = {**versions["v1"], "task_files": {"chat_template": file}}
    catalog.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return catalog
