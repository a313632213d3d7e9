"""A folder of prepared files, as its manifest describes it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from app.core.checkpoint import MANIFEST, Manifest, Parity
from app.core.errors import CannotLoad

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What can be loaded. files: absolute paths by role; commit: empty for folders."""

    manifest: Manifest
    folder: Path
    commit: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """What `/models` shows of it."""
        manifest = self.manifest
        shown = {
            "commit": self.commit,
            "architecture": manifest.architecture,
            "precision": manifest.precision,
            "runtime": manifest.runtime,
            "size_bytes": manifest.size_bytes,
            "generation": manifest.generation,
            "options_by_task": manifest.options_by_task,
            "tools": manifest.tools,
            "prepare_s": round(manifest.prepare_s, 1),
        }
        facts = {name: value for name, value in shown.items() if value}
        return {**facts, "parity": _shown_parity(manifest.parity)} if manifest.parity else facts

    @property
    def files(self) -> dict[str, str]:
        return {role: str(self.folder / path) for role, path in self.manifest.files.items()}


def read_prepared(folder: Path, commit: str = "") -> Prepared | None:
    """None where there is nothing whole. Raises CannotLoad for what may not be read."""
    try:
        content = (folder / MANIFEST).read_bytes()
        manifest = msgspec.json.decode(content, type=Manifest)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        _log.warning("prepared_files_damaged", path=str(folder), reason=str(error))
        return None
    except OSError as error:
        raise CannotLoad(f"{folder / MANIFEST} cannot be read: {error}") from error
    missing = [path for path in manifest.files.values() if not (folder / path).exists()]
    if missing:
        _log.warning("prepared_files_missing", path=str(folder), missing=missing)
        return None
    return Prepared(manifest, folder, commit)


def _shown_parity(parity: Parity) -> dict[str, Any]:
    return {"passed": parity.has_passed, **msgspec.to_builtins(parity)}
