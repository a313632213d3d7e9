"""`python -m app.cli`: look after catalogs and model files without serving.

check  validate a catalog and show what it needs
pull   fetch the model files
"""

import argparse
import hashlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from app.core.config import Settings, load_settings
from app.core.errors import ServingError
from app.core.logging import configure_logging
from app.models.catalog import load_catalog, profile_path
from app.models.progress import progress_for_stderr
from app.models.spec import ModelFile, ModelSpec
from app.models.store import ModelStore, fetch_all, files_of, is_local


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 with a line on stderr for each thing that is wrong."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        configure_logging(settings.log_format, settings.effective_log_level)
        path = _catalog_path(options.catalog, settings)
        specs = load_catalog(path)
        store = ModelStore(settings.model_store, progress_for_stderr())
        if options.command == "pull":
            return _pull(specs, store)
        return _print_hashes(specs, store) if options.hashes else _check(path, specs, store)
    except ServingError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return _complain("interrupted")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app.cli", description="Look after catalogs and model files."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="validate a catalog and show what it needs")
    check.add_argument(
        "--hashes",
        action="store_true",
        help="print sha256 and size of the file:// sources as they are now",
    )
    pull = commands.add_parser("pull", help="fetch the model files into MODEL_STORE")
    for command in (check, pull):
        command.add_argument(
            "catalog",
            nargs="?",
            type=Path,
            help="a catalog file (default: MODEL_CATALOG, else that of MODEL_PROFILE)",
        )
    return parser


def _catalog_path(given: Path | None, settings: Settings) -> Path:
    return given or settings.model_catalog or profile_path(settings.model_profile)


def _check(path: Path, specs: Sequence[ModelSpec], store: ModelStore) -> int:
    files = files_of(specs)
    problems = {file: store.problem(file) for file in files}
    for spec in specs:
        default = " (default)" if spec.is_default else ""
        print(f"{spec.key}{default}: {spec.task} on {spec.runtime}, {spec.artefact.name}")
        for file in (*spec.artefact.files, *spec.task_files):
            state = _state(file, problems[file])
            print(f"    {file.role:<10} {_mb([file]):>10}  {state:<12} {file.source}")
    wanted = [file for file in files if problems[file] and not is_local(file)]
    broken = [file for file in files if problems[file] and is_local(file)]
    print(f"{path}: {len(specs)} versions, {len(files)} files, {_mb(files)}")
    print(f"to download: {len(wanted)} files, {_mb(wanted)}, into {store.root}")
    for file in broken:
        _complain(f"{store.path_of(file)} {problems[file]}")
    return 2 if broken else 0


def _print_hashes(specs: Sequence[ModelSpec], store: ModelStore) -> int:
    """For whoever maintains a catalog: the values to write into it."""
    status = 0
    for file in filter(is_local, files_of(specs)):
        path = store.path_of(file)
        try:
            content = path.read_bytes()
        except OSError as error:
            status = _complain(f"{path} cannot be read: {error.strerror}")
            continue
        digest = hashlib.sha256(content).hexdigest()
        right = (digest, len(content)) == (file.sha256, file.size_bytes)
        print(f"{path}: {'as in the catalog' if right else 'the catalog differs'}")
        print(f"    sha256: {digest}\n    size_bytes: {len(content)}")
        status = status if right else 2
    return status


def _pull(specs: Sequence[ModelSpec], store: ModelStore) -> int:
    files = fetch_all(specs, store)
    print(f"{len(files)} files, {_mb(files)}, ready in {store.root}")
    return 0


def _state(file: ModelFile, problem: str | None) -> str:
    if problem is None:
        return "present"
    return "unusable" if is_local(file) else "to download"


def _mb(files: Iterable[ModelFile]) -> str:
    return f"{sum(file.size_bytes for file in files) / 1e6:.1f} MB"


def _complain(problem: str) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
