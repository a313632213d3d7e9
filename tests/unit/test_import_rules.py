"""The architecture as a test: who may import whom, where libraries live, how large things get.

The table is that of docs/architecture.md. A rule that is in the way is changed here, with the
reason, and not walked around.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"
FILES = sorted(APP.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in FILES}

ANYTHING = frozenset(
    "api schemas services models preparing scheduling workers runtimes tasks jobs batches keys "
    "storage core".split()
)
# folder or file of app/ -> what it may import; "folder.module" allows that module alone.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "main": ANYTHING,
    "cli": ANYTHING,
    "api": frozenset({"schemas", "services", "jobs", "batches", "keys", "core"}),
    "services": frozenset(
        {"models", "scheduling.admission", "workers", "jobs", "batches", "keys", "core"}
    ),
    # Names and parameters only: a catalog is checked without loading a library.
    "models": frozenset(
        "workers tasks.catalogue runtimes.catalogue preparing.plan preparing.job core".split()
    ),
    # Runs in processes of its own, never in the server; `plan` and `job` alone are light.
    "preparing": frozenset({"runtimes", "tasks", "core"}),
    "workers": frozenset({"scheduling", "tasks", "runtimes", "core"}),
    "tasks": frozenset({"core"}),
    "runtimes": frozenset({"core"}),
    "scheduling": frozenset({"core"}),
    "schemas": frozenset({"core"}),
    "jobs": frozenset({"storage", "core"}),
    "batches": frozenset({"storage", "core"}),
    "keys": frozenset({"storage", "core"}),
    "storage": frozenset({"core"}),
    "core": frozenset(),
}
HTTP = {"api", "main"}
LIVES_ONLY_IN: dict[str, set[str]] = {
    "fastapi": HTTP,
    "starlette": HTTP,
    "uvicorn": HTTP,
    # api: to catch the ValidationError of what a schema refuses.
    "pydantic": {"schemas", "core.config", "core.config_jobs", "api"},
    "pydantic_settings": {"core.config", "core.config_jobs"},
    "grpc": {"api"},
    "google": {"api"},  # protobuf
    **dict.fromkeys(
        (
            "openvino openvino_genai openvino_tokenizers tokenizers sentencepiece llguidance torch "
            "transformers ctranslate2 optimum nncf safetensors"
        ).split(),
        {"runtimes", "preparing"},
    ),
    "huggingface_hub": {"models.hub"},
    "httpx": {"models.hub", "runtimes", "jobs.webhooks"},
    "ray": {"workers"},
    **dict.fromkeys(("sqlalchemy", "alembic", "sqlite3"), {"storage", "jobs", "batches", "keys"}),
    "psycopg": {"storage"},
    "cachetools": {"services.response_cache"},
}
# What can run code out of a file or a string.
NEVER_IMPORTED = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
NEVER_CALLED = {"eval", "exec", "compile", "__import__"} | {
    f"yaml.{name}" for name in ("load_all", "unsafe_load", "unsafe_load_all", "full_load")
}
# NumPy's own; our flag of the same name asks a person, and means weights only.
UNPICKLING = {"load", "read_array", "open_memmap", "NpzFile"}
SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}

FUNCTION_LINES = 60
FILE_LINES = 300

Rule = Callable[[Path, ast.Module], Iterator[str]]


def module_of(path: Path) -> str:
    """`core.config` for app/core/config.py, `main` for app/main.py."""
    parts = path.relative_to(APP).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def folder_of(path: Path) -> str:
    return module_of(path).partition(".")[0]


def is_within(module: str, places: set[str] | frozenset[str]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names, with those of `from a import b` as `a.b`: b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            yield from (f"{source}.{alias.name}" for alias in node.names)


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imports_among_ourselves_follow_the_table(path: Path, tree: ast.Module) -> Iterator[str]:
    home = folder_of(path)
    for name in imports(tree):
        root, _, target = name.partition(".")
        if name.startswith("."):
            yield f"{name} is relative"
        elif root == "app" and not is_within(target, MAY_IMPORT.get(home, frozenset()) | {home}):
            yield f"{home} imports app.{target}"


def nothing_imports_the_entry_points(path: Path, tree: ast.Module) -> Iterator[str]:
    yield from (name for name in imports(tree) if is_within(name, {"app.main", "app.cli"}))


def libraries_stay_where_they_live(path: Path, tree: ast.Module) -> Iterator[str]:
    for name in imports(tree):
        places = LIVES_ONLY_IN.get(name.partition(".")[0])
        if places is not None and not is_within(module_of(path), places):
            yield f"{name} lives in {sorted(places)}"


def nothing_runs_code_out_of_data(path: Path, tree: ast.Module) -> Iterator[str]:
    yield from (name for name in imports(tree) if name.partition(".")[0] in NEVER_IMPORTED)
    safe = SAFE_LOADERS | {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and {ast.unparse(b) for b in node.bases} & SAFE_LOADERS
    }
    for name, call in calls(tree):
        loaders = [*call.args[1:], *(k.value for k in call.keywords if k.arg == "Loader")]
        if name in NEVER_CALLED:
            yield f"{name}() on line {call.lineno}"
        if name == "yaml.load" and not {ast.unparse(loader) for loader in loaders} & safe:
            yield f"yaml.load without a safe loader on line {call.lineno}"
        keywords = {keyword.arg for keyword in call.keywords}
        if "allow_pickle" in keywords and name.rpartition(".")[2] in UNPICKLING:
            yield f"allow_pickle on line {call.lineno}"


def no_check_vanishes_under_dash_O(path: Path, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield f"assert on line {node.lineno}: raise an error of core/errors.py"


def only_the_command_line_prints(path: Path, tree: ast.Module) -> Iterator[str]:
    if module_of(path) != "cli":
        yield from (f"line {call.lineno}" for name, call in calls(tree) if name == "print")


def functions_need_no_scrolling(path: Path, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{node.name} has {length} lines"


def each_module_says_what_it_is_for(path: Path, tree: ast.Module) -> Iterator[str]:
    if not ast.get_docstring(tree):
        yield "no docstring"


RULES: list[Rule] = [
    imports_among_ourselves_follow_the_table,
    nothing_imports_the_entry_points,
    libraries_stay_where_they_live,
    nothing_runs_code_out_of_data,
    no_check_vanishes_under_dash_O,
    only_the_command_line_prints,
    functions_need_no_scrolling,
    each_module_says_what_it_is_for,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_whole_of_app_keeps_the_rule(rule):
    broken = [
        f"{path.relative_to(APP)}: {what}" for path in FILES for what in rule(path, TREES[path])
    ]
    assert not broken


BREACHES = {
    "core imports models": (RULES[0], "core/x.py", "from app.models import spec"),
    "services take all of scheduling": (RULES[0], "services/x.py", "import app.scheduling.batcher"),
    "models load a task": (RULES[0], "models/x.py", "from app.tasks.embed import Embed"),
    "models load the task package": (RULES[0], "models/x.py", "from app import tasks"),
    "a function imports a runtime": (RULES[0], "tasks/x.py", "def f():\n import app.runtimes.base"),
    "relative import": (RULES[0], "tasks/x.py", "from .base import Prepared"),
    "a folder without a rule": (RULES[0], "helpers/x.py", "import app.core.errors"),
    "someone imports main": (RULES[1], "api/x.py", "from app.main import create_app"),
    "pydantic below the schemas": (RULES[2], "core/x.py", "import pydantic"),
    "HTTP below the api": (RULES[2], "services/x.py", "from fastapi import Request"),
    "a tokenizer in a task": (RULES[2], "tasks/x.py", "import numpy, tokenizers"),
    "pickle": (RULES[3], "core/x.py", "from pickle import loads"),
    "eval": (RULES[3], "core/x.py", "x = eval('1')"),
    "yaml without a loader": (RULES[3], "core/x.py", "x = yaml.load(f)"),
    "yaml with a full loader": (RULES[3], "core/x.py", "x = yaml.load(f, Loader=yaml.Loader)"),
    "arrays of pickled objects": (RULES[3], "core/x.py", "np.load(f, allow_pickle=True)"),
    "assert": (RULES[4], "core/x.py", "def f():\n assert x"),
    "print": (RULES[5], "core/x.py", "print(1)"),
    "a long function": (RULES[6], "core/x.py", "def f():\n" + " x\n" * 60),
    "no docstring": (RULES[7], "core/x.py", "x = 1"),
}


@pytest.mark.parametrize(("rule", "file", "code"), BREACHES.values(), ids=BREACHES)
def test_each_rule_sees_what_it_forbids(rule, file, code):
    assert list(rule(APP / file, ast.parse(code)))


def test_a_loader_made_from_the_safe_one_is_safe():
    code = "class Strict(yaml.SafeLoader): ...\nyaml.load(f, Strict)"
    assert not list(nothing_runs_code_out_of_data(APP / "core/x.py", ast.parse(code)))


def lines_of(path: Path) -> int:
    return sum(bool(line.strip()) for line in path.read_text(encoding="utf-8").splitlines())


def test_files_stay_small():
    sizes = {path.relative_to(APP).as_posix(): lines_of(path) for path in FILES}
    assert {name: lines for name, lines in sizes.items() if lines > FILE_LINES} == {}


def test_there_is_something_to_check():
    assert {"core", "models", "scheduling", "tasks"} <= {folder_of(path) for path in FILES}
