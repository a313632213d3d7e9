"""`python -m app.cli`: look after catalogs, model files and API keys without serving.

check  validate a catalog and show what it would load, from where, and what that takes
pull   fetch the model files and prepare the checkpoints
keys   make, list, change, rotate and revoke API keys
usage  what was used, and what it cost
"""

import argparse
import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.core.config import Settings, load_settings
from app.core.errors import CannotLoad, ServingError
from app.core.logging import configure_logging
from app.keys import command_line, command_options
from app.models.catalog import load_catalog, profile_path
from app.models.planned import Planned, Wanted
from app.models.preparation import Stores, open_stores, wanted_by
from app.models.progress import progress_for_stderr
from app.models.spec import ModelFile, ModelSpec
from app.models.store import ModelStore, fetch_all, files_of, is_local


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 with a line on stderr for each thing that is wrong."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        configure_logging(settings.log_format, settings.effective_log_level)
        if options.command in ("keys", "usage"):
            return _say(command_line.run(options, settings.database_address))
        path = _catalog_path(options.catalog, settings)
        specs = load_catalog(path)
        stores = open_stores(settings, progress_for_stderr())
        if options.command == "pull":
            return _pull(specs, stores)
        return _print_hashes(specs, stores.files) if options.hashes else _check(path, specs, stores)
    except ServingError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return _complain("interrupted")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app.cli", description="Look after catalogs, model files and API keys."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="validate a catalog and show what it needs")
    check.add_argument(
        "--hashes",
        action="store_true",
        help="print sha256 and size of the file:// sources as they are now",
    )
    pull = commands.add_parser("pull", help="fetch and prepare everything into MODEL_STORE")
    for command in (check, pull):
        command.add_argument(
            "catalog",
            nargs="?",
            type=Path,
            help="a catalog file (default: MODEL_CATALOG, else that of MODEL_PROFILE)",
        )
    command_options.add_commands(commands)
    return parser


def _say(said: command_line.Said) -> int:
    for line in said.aside:
        print(line, file=sys.stderr)
    for line in said.out:
        print(line)
    return 0


def _catalog_path(given: Path | None, settings: Settings) -> Path:
    return given or settings.model_catalog or profile_path(settings.model_profile)


def _check(path: Path, specs: Sequence[ModelSpec], stores: Stores) -> int:
    store, files = stores.files, files_of(specs)
    problems = {file: store.problem(file) for file in files}
    checkpoints = [_Looked.at(wanted, stores) for wanted in wanted_by(specs)]
    for spec in specs:
        default = " (default)" if spec.is_default else ""
        print(f"{spec.key}{default}: {spec.task} on {spec.runtime}, {spec.artefact.name}")
        for file in (*spec.artefact.files, *spec.task_files):
            state = _state(file, problems[file])
            print(f"    {file.role:<10} {_mb([file]):>10}  {state:<12} {file.source}")
        for looked in checkpoints:
            if looked.wanted.checkpoint == spec.artefact.checkpoint:
                print(looked.described)
    wanted = [file for file in files if problems[file] and not is_local(file)]
    broken = [file for file in files if problems[file] and is_local(file)]
    print(f"{path}: {len(specs)} versions, {len(files)} files, {_mb(files)}")
    print(f"to download: {len(wanted)} files, {_mb(wanted)}, into {store.root}")
    if checkpoints:
        print(_total(checkpoints))
    for file in broken:
        _complain(f"{store.path_of(file)} {problems[file]}")
    for looked in checkpoints:
        if looked.problem:
            _complain(f"{looked.wanted.checkpoint.source}: {looked.problem}")
    return 2 if broken or any(looked.problem for looked in checkpoints) else 0


@dataclass(frozen=True, slots=True)
class _Looked:
    """A checkpoint, and what is known of it before anything is fetched."""

    wanted: Wanted
    planned: Planned | None = None
    prepared_bytes: int | None = None
    problem: str = ""

    @classmethod
    def at(cls, wanted: Wanted, stores: Stores) -> "_Looked":
        try:
            found = stores.checkpoints.find(wanted)
            if found is not None:
                return cls(wanted, prepared_bytes=found.manifest.size_bytes)
            return cls(wanted, stores.checkpoints.plan(wanted))
        except CannotLoad as error:
            return cls(wanted, problem=str(error))

    @property
    def described(self) -> str:
        head = f"    checkpoint  {self.wanted.checkpoint.source}"
        if self.problem:
            return f"{head}\n        cannot be used: {self.problem}"
        if self.planned is None:
            return f"{head}\n        prepared, {_megabytes(self.prepared_bytes or 0)}"
        plan, commit = self.planned.plan, self.planned.commit
        torch = ", with PyTorch" if plan.needs_torch else ""
        return (
            f"{head}\n        {plan.architecture}, {plan.format}"
            f"{f', commit {commit[:12]}' if commit else ''}\n"
            f"        download {_megabytes(plan.download_bytes)}, {len(plan.files)} files; "
            f"prepared {_megabytes(plan.prepared_bytes)} ({self.wanted.checkpoint.precision}"
            f"{torch}) for {self.planned.runtime}\n"
            f"        memory: about {_megabytes(plan.prepare_memory_bytes)} to prepare, "
            f"{_megabytes(plan.serve_memory_bytes)} to serve"
        )


def _total(checkpoints: Sequence[_Looked]) -> str:
    plans = [looked.planned.plan for looked in checkpoints if looked.planned is not None]
    return (
        f"to prepare: {len(plans)} of {len(checkpoints)} checkpoints, "
        f"{_megabytes(sum(plan.download_bytes for plan in plans))} to download, "
        f"{_megabytes(sum(plan.prepared_bytes for plan in plans))} to keep, at most "
        f"{_megabytes(max((plan.prepare_memory_bytes for plan in plans), default=0))} of memory"
    )


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


def _pull(specs: Sequence[ModelSpec], stores: Stores) -> int:
    """Everything that can be brought is brought; what cannot is named at the end."""
    status = 0
    try:
        files = fetch_all(specs, stores.files)
        print(f"{len(files)} files, {_mb(files)}, ready in {stores.files.root}")
    except CannotLoad as error:
        status = _complain(str(error))
    for wanted in wanted_by(specs):
        source = wanted.checkpoint.source
        try:
            found = stores.checkpoints.bring(wanted, lambda what: print(f"    {what}", flush=True))
        except CannotLoad as error:
            status = _complain(f"{source}: {error}")
            continue
        size = _megabytes(found.manifest.size_bytes)
        print(f"{source}: {size} for {found.manifest.runtime}, ready in {found.folder}")
    return status


def _state(file: ModelFile, problem: str | None) -> str:
    if problem is None:
        return "present"
    return "unusable" if is_local(file) else "to download"


def _mb(files: Iterable[ModelFile]) -> str:
    return f"{sum(file.size_bytes for file in files) / 1e6:.1f} MB"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def _complain(problem: str) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
