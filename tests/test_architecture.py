"""The shape of the code: which module may import which, who may know the example's domain, how large things may be, what they are called."""

from __future__ import annotations

import ast
import importlib
import io
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from grimp import ImportGraph, build_graph
from importlinter.cli import lint_imports

from asof.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("asof", "training", "serving", "monitoring")
REPO_LIBRARIES = {"feast", "numpy"}
SCRIPT_LIBRARIES = {"pyarrow", "scipy"}
DOMAIN = re.compile(r"customer|terminal_|terminals\b|fraud|payment|merchant|credit|\bcards?\b|\bcard_", re.IGNORECASE)
FORBIDDEN_NAMES = re.compile(r"utils?|common|helpers?|base|base_.*|manager|misc")
MODULE_LINES = 400
BODY_LINES = 40
THIN_LINES = 60

THIN_MODULES: dict[str, str] = {
    "asof.feast.provider": "Feast's plug-in path; asof/provider.py re-exports it",
}
"""Module under 60 lines with a single importer -> why it is a module of its own."""

SHARED_NAMES: dict[str, str] = {}
"""Public class name that several modules define -> why."""


def _modules(*folders: str) -> list[Path]:
    found = [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))]
    return [p for p in found if "data" not in p.relative_to(ROOT).parts[1:-1]]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imports(path: Path) -> Iterator[str]:
    """Every module imported anywhere in the file, also inside functions, under TYPE_CHECKING, and by literal name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield _absolute(path, node)
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = path.relative_to(ROOT).parts[: -node.level]
    return ".".join([*parts, node.module or ""])


def _dotted(path: Path) -> str:
    """The import name: top-level folders but ``asof`` are packages inside ``asof``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "asof" else ("asof", *parts)).removesuffix(".__init__")


@cache
def _graph() -> ImportGraph:
    """All imports between our modules."""
    sys.path.insert(0, str(ROOT))
    try:
        return build_graph("asof", cache_dir=None)
    finally:
        sys.path.remove(str(ROOT))


def _code(path: Path) -> list[tuple[int, str]]:
    """The lines of code with their numbers: no docstrings, no comments."""
    text = path.read_text()
    docs = {line for node in ast.walk(ast.parse(text)) for line in _docstring_lines(node)}
    lines = [(n, line.partition("  #")[0]) for n, line in enumerate(text.splitlines(), 1) if n not in docs]
    return [(n, line) for n, line in lines if not line.lstrip().startswith("#")]


def _code_lines(path: Path) -> int:
    """Lines that hold code: no blank lines, no comments, no docstrings."""
    text = path.read_text()
    docs = {line for node in ast.walk(ast.parse(text)) for line in _docstring_lines(node)}
    skip = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skip:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docs)


def _docstring_lines(node: ast.AST) -> set[int]:
    body = getattr(node, "body", None)
    lines: set[int] = set()
    for statement in body if isinstance(body, list) else ():
        if (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        ):
            lines |= set(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
    return lines


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    last = node.end_lineno or node.lineno
    return last - node.body[0].lineno + 1 - len(_docstring_lines(node))


def test_imports_keep_the_contracts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The import contracts in pyproject.toml hold, for imports in functions and under TYPE_CHECKING as well."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])

    code = lint_imports(no_cache=True, no_logo=True)

    assert code == 0, capsys.readouterr().out


def test_packages_are_imported_inside_asof() -> None:
    """Nothing imports training, serving or monitoring by names that a user's own code may have."""
    outside = [
        (_name(path), module)
        for path in _modules(*PACKAGES, "feature_repo", "examples", "benchmarks", "tests", "deploy", "docs")
        for module in _imports(path)
        if module.split(".")[0] in set(PACKAGES) - {"asof"}
    ]

    assert not outside


def test_no_modules_import_each_other() -> None:
    """No chain of imports leads from a module back to itself."""
    graph = _graph()
    circles = [
        (module, *chain)
        for module in sorted(graph.modules)
        for target in sorted(graph.find_modules_directly_imported_by(module))
        if (chain := graph.find_shortest_chain(target, module)) is not None
    ]

    assert not circles


def test_a_thin_module_has_a_reason() -> None:
    """A module under 60 lines with a single importer belongs to that importer, unless THIN_MODULES gives a reason."""
    graph = _graph()
    thin = {
        _dotted(path)
        for path in _modules(*PACKAGES)
        if path.name != "__init__.py"
        and len(path.read_text().splitlines()) < THIN_LINES
        and len(graph.find_modules_that_directly_import(_dotted(path))) == 1
    }

    assert thin == set(THIN_MODULES)


def test_a_class_name_has_one_meaning() -> None:
    """No two modules define public classes of the same name."""
    homes: dict[str, list[str]] = defaultdict(list)
    for path in _modules(*PACKAGES):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(_name(path))

    assert not {name: found for name, found in homes.items() if len(found) > 1 and name not in SHARED_NAMES}


def test_feature_repo_imports_feast_and_its_own_files() -> None:
    """What Feast imports of the example needs Feast, numpy and the standard library alone; a script that it ignores may use more."""
    own = {p.stem for p in (ROOT / "feature_repo").glob("*.py")}
    ignored = (ROOT / "feature_repo" / ".feastignore").read_text().split()
    allowed = REPO_LIBRARIES | own | set(sys.stdlib_module_names)
    foreign = [
        (_name(path), module)
        for path in _modules("feature_repo")
        if path.parent.name != "models"
        for module in _imports(path)
        if module.split(".")[0] not in allowed | (SCRIPT_LIBRARIES if path.name in ignored else set())
    ]

    assert not foreign


def test_only_the_example_knows_its_domain() -> None:
    """No code outside the feature repo has a word of the example's domain; docstrings may give examples."""
    found = [
        (_name(path), number, line.strip())
        for path in _modules(*PACKAGES)
        for number, line in _code(path)
        if DOMAIN.search(line)
    ]

    assert not found


def test_things_stay_small() -> None:
    """A module has at most 400 lines of code and a function body at most 40."""
    paths = _modules(*PACKAGES, "feature_repo", "examples", "benchmarks", "deploy", "docs")
    functions = [
        (_name(path), node.name, _body_lines(node))
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    assert not {_name(p): _code_lines(p) for p in paths if _code_lines(p) > MODULE_LINES}
    assert not [(path, name, lines) for path, name, lines in functions if lines > BODY_LINES]


def test_modules_are_named_after_what_they_are() -> None:
    """No module is named utils, common, helpers, base or manager."""
    names = [
        p
        for p in _modules(*PACKAGES, "feature_repo", "examples", "benchmarks", "tests")
        if FORBIDDEN_NAMES.fullmatch(p.stem)
    ]

    assert not [_name(p) for p in names]


def test_tests_state_facts() -> None:
    """The docstring of every test is one sentence, and every test asserts something."""
    tests = [
        (_name(path), node)
        for path in _modules("tests")
        if path.stem.startswith("test_")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]

    assert not [(path, t.name) for path, t in tests if not (ast.get_docstring(t) or "").endswith(".")]
    assert not [(path, t.name) for path, t in tests if not re.search(r"\bassert|raises\(|check_", ast.unparse(t))]


def test_modules_say_what_they_are_for() -> None:
    """Every module that holds code has a docstring."""
    trees = {
        _name(path): ast.parse(path.read_text())
        for path in _modules(*PACKAGES, "feature_repo", "examples", "benchmarks", "deploy", "docs", "tests")
    }

    assert not [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)]


def _commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli, info_name="asof")
    for name in sorted(COMMANDS):
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command
        for inner_name, inner in sorted(getattr(command, "commands", {}).items()):
            yield f"{name} {inner_name}", inner


def test_every_verb_exists() -> None:
    """Every verb that the command line offers can be imported and is a click command."""
    for target in COMMANDS.values():
        module, _, attribute = target.partition(":")

        assert isinstance(getattr(importlib.import_module(module), attribute), click.Command)


def test_every_verb_explains_itself() -> None:
    """Every verb has a help text with an example, and every option says what it is for."""
    unexplained = [name for name, command in _commands() if f"asof {name}" not in (command.help or "")]
    mute = [
        f"{name} {p.name}" for name, c in _commands() for p in c.params if isinstance(p, click.Option) and not p.help
    ]

    assert not unexplained
    assert not mute
