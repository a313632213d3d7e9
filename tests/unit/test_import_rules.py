"""The architecture as a test: who may import whom, where libraries live, how large things get.

The table is that of docs/architecture.md. A rule that is in the way is changed here, with the
reason, and not walked around.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"
FILES = sorted(APP.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in FILES}

ANYTHING = frozenset(
    "api schemas services models scheduling workers runtimes tasks jobs keys core".split()
)
# folder or file of app/ -> what it may import; "folder.module" allows that module alone.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "main": ANYTHING,
    "cli": ANYTHING,
    "api": frozenset({"schemas", "services", "jobs", "keys", "core"}),
    "services": frozenset({"models", "scheduling.admission", "workers", "jobs", "keys", "core"}),
    # Names and parameters only: a catalog is checked without loading a library.
    "models": frozenset({"workers", "tasks.catalogue", "runtimes.catalogue", "core"}),
    "workers": frozenset({"scheduling", "tasks", "runtimes", "core"}),
    "tasks": frozenset({"core"}),
    "runtimes": frozenset({"core"}),
    "scheduling": frozenset({"core"}),
    "schemas": frozenset({"core"}),
    "jobs": frozenset({"core"}),
    "keys": frozenset({"core"}),
    "core": frozenset(),
}
HTTP = {"api", "main"}
LIVES_ONLY_IN: dict[str, set[str]] = {
    "fastapi": HTTP,
    "starlette": HTTP,
    "uvicorn": HTTP,
    # api: to catch the ValidationError of what a schema refuses.
    "pydantic": {"schemas", "core.config", "api"},
    "pydantic_settings": {"core.config"},
    "openvino": {"runtimes"},
    "openvino_genai": {"runtimes"},
    "openvino_tokenizers": {"runtimes"},
    "tokenizers": {"runtimes"},
    "torch": {"runtimes"},
    "transformers": {"runtimes"},
    "ctranslate2": {"runtimes"},
    "ray": {"workers"},
}
# What can run code out of a file or a string.
NEVER_IMPORTED = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
NEVER_CALLED = {"eval", "exec", "compile", "__import__"}
UNSAFE_YAML = {"load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"}

FUNCTION_LINES = 60
FILE_LINES = 300


def module_of(path: Path) -> str:
    """`core.config` for app/core/config.py, `main` for app/main.py."""
    parts = path.relative_to(APP).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def folder_of(path: Path) -> str:
    return module_of(path).partition(".")[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names, with those of `from a import b` as `a.b`: b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(module: str, places: set[str] | frozenset[str]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


every_file = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: path.relative_to(APP).as_posix()
)


@every_file
def test_imports_among_ourselves_follow_the_table(path):
    home = folder_of(path)
    for name in imports(TREES[path]):
        root, _, target = name.partition(".")
        if root == "app" and home:
            assert is_within(target, MAY_IMPORT[home] | {home}), f"{home} imports app.{target}"


@every_file
def test_libraries_stay_where_they_live(path):
    for name in imports(TREES[path]):
        places = LIVES_ONLY_IN.get(name.partition(".")[0])
        assert places is None or is_within(module_of(path), places), f"{name} lives in {places}"


@every_file
def test_nothing_can_run_code_out_of_data(path):
    roots = {name.partition(".")[0] for name in imports(TREES[path])}
    called = set(calls(TREES[path]))

    assert not roots & NEVER_IMPORTED
    assert not called & NEVER_CALLED
    assert not called & {f"yaml.{name}" for name in UNSAFE_YAML}


@every_file
def test_arrays_are_read_without_pickle(path):
    """numpy reads pickled objects only when asked to."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Call):
            assert "allow_pickle" not in {keyword.arg for keyword in node.keywords}, node.lineno


@every_file
def test_no_check_vanishes_with_python_O(path):
    asserts = [node.lineno for node in ast.walk(TREES[path]) if isinstance(node, ast.Assert)]
    assert not asserts, f"assert on lines {asserts}: raise an error of core/errors.py"


@every_file
def test_only_the_command_line_prints(path):
    assert module_of(path) == "cli" or "print" not in set(calls(TREES[path]))


@every_file
def test_functions_need_no_scrolling(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{node.name} has {length} lines"


@every_file
def test_files_stay_small(path):
    lines = sum(bool(line.strip()) for line in path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES, f"{lines} lines"


@every_file
def test_each_module_says_what_it_is_for(path):
    assert ast.get_docstring(TREES[path])


def test_no_folder_is_without_a_rule():
    assert {folder_of(path) for path in FILES} - {""} <= set(MAY_IMPORT)


def test_nothing_imports_the_entry_points():
    for path in FILES:
        for name in imports(TREES[path]):
            assert not is_within(name, {"app.main", "app.cli"}), f"{path} imports {name}"


BROKEN_RULES = {
    "core imports models": ("core/x.py", "from app.models import spec"),
    "services take all of scheduling": ("services/x.py", "import app.scheduling.batcher"),
    "models load a task": ("models/x.py", "from app.tasks.embed import Embed"),
    "models load the task package": ("models/x.py", "from app import tasks"),
    "tasks reach for a runtime": ("tasks/x.py", "def f():\n    import app.runtimes.base"),
}


@pytest.mark.parametrize(("file", "code"), BROKEN_RULES.values(), ids=BROKEN_RULES)
def test_the_rule_itself_sees_what_it_forbids(file, code, monkeypatch):
    monkeypatch.setitem(TREES, APP / file, ast.parse(code))
    with pytest.raises(AssertionError):
        test_imports_among_ourselves_follow_the_table(APP / file)


@pytest.mark.parametrize(
    ("file", "code", "rule"),
    [
        ("core/x.py", "import pydantic", test_libraries_stay_where_they_live),
        ("services/x.py", "from fastapi import Request", test_libraries_stay_where_they_live),
        ("tasks/x.py", "import numpy, tokenizers", test_libraries_stay_where_they_live),
        ("core/x.py", "from pickle import loads", test_nothing_can_run_code_out_of_data),
        ("core/x.py", "x = eval('1')", test_nothing_can_run_code_out_of_data),
        ("core/x.py", "x = yaml.load(f)", test_nothing_can_run_code_out_of_data),
        ("core/x.py", "np.load(f, allow_pickle=True)", test_arrays_are_read_without_pickle),
        ("core/x.py", "def f():\n    assert x", test_no_check_vanishes_with_python_O),
        ("core/x.py", "print(1)", test_only_the_command_line_prints),
        ("core/x.py", "def f():\n" + "    x\n" * 60, test_functions_need_no_scrolling),
        ("core/x.py", "x = 1", test_each_module_says_what_it_is_for),
    ],
    ids=lambda value: value.splitlines()[-1][:40] if isinstance(value, str) else "",
)
def test_each_other_rule_sees_what_it_forbids(file, code, rule, monkeypatch):
    monkeypatch.setitem(TREES, APP / file, ast.parse(code))
    with pytest.raises(AssertionError):
        rule(APP / file)
