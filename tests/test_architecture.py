"""The shape of the house: who may import whom, who may know the example's domain, and how large things may be."""

from __future__ import annotations

import ast
import importlib
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from asof.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("asof", "training", "serving", "monitoring")
ROOF = {"asof/cli.py", "asof/commands/demo.py"}
REPO_LIBRARIES = {"feast", "numpy"}
SCRIPT_LIBRARIES = {"pyarrow", "scipy"}
DOMAIN = re.compile(r"customer|terminal_|terminals\b|fraud|payment|merchant|credit|\bcards?\b|\bcard_", re.IGNORECASE)
DOMAIN_ROOMS = ("training/models/",)
FORBIDDEN_NAMES = re.compile(r"utils?|common|helpers?|base|base_.*|manager|misc")
MODULE_LINES = 400
BODY_LINES = 40


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


@pytest.mark.parametrize("path", _modules("asof"), ids=_name)
def test_engine_room_imports_no_other_room(path: Path) -> None:
    """No module of asof but the roof imports training, serving or monitoring, not even lazily."""
    upward = {m for m in _imports(path) if m.split(".")[0] in PACKAGES[1:]}

    assert not upward or _name(path) in ROOF


@pytest.mark.parametrize("path", _modules(*PACKAGES[1:]), ids=_name)
def test_rooms_do_not_import_each_other(path: Path) -> None:
    """Training, serving and monitoring import asof and never each other: they share files, not code."""
    own = path.relative_to(ROOT).parts[0]
    others = {m for m in _imports(path) if m.split(".")[0] in PACKAGES[1:] and m.split(".")[0] != own}

    assert not others


@pytest.mark.parametrize("path", _modules("feature_repo"), ids=_name)
def test_feature_repo_imports_feast_and_its_own_files(path: Path) -> None:
    """What Feast imports of the example needs Feast, numpy and the standard library alone; a script that it ignores may use more."""
    own = {p.stem for p in (ROOT / "feature_repo").glob("*.py")}
    ignored = (ROOT / "feature_repo" / ".feastignore").read_text().split()
    allowed = (
        REPO_LIBRARIES | own | set(sys.stdlib_module_names) | (SCRIPT_LIBRARIES if path.name in ignored else set())
    )

    assert not {m for m in _imports(path) if m.split(".")[0] not in allowed}


def test_nobody_imports_the_feature_repo() -> None:
    """Code never imports the example's definitions: it reads the registry or a contract."""
    definitions = {p.stem for p in (ROOT / "feature_repo").glob("*.py")} | {"feature_repo"}

    assert not [_name(p) for p in _modules(*PACKAGES) for m in _imports(p) if m.split(".")[0] in definitions]


@pytest.mark.parametrize("path", _modules(*PACKAGES), ids=_name)
def test_only_the_example_knows_its_domain(path: Path) -> None:
    """No code outside the feature repo and the model declarations has a word of the example's domain; docstrings may give examples."""
    if _name(path).startswith(DOMAIN_ROOMS):
        assert path.parent == ROOT / "training" / "models"
        return
    docs = {line for node in ast.walk(ast.parse(path.read_text())) for line in _docstring_lines(node)}
    code = [(n, line.partition("  #")[0]) for n, line in enumerate(path.read_text().splitlines(), 1) if n not in docs]

    assert not [(n, line.strip()) for n, line in code if not line.lstrip().startswith("#") and DOMAIN.search(line)]


@pytest.mark.parametrize("path", _modules(*PACKAGES, "feature_repo", "benchmarks", "deploy", "docs"), ids=_name)
def test_things_stay_small(path: Path) -> None:
    """A module has at most 400 lines of code and a body at most 40."""
    functions = [
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    assert _code_lines(path) <= MODULE_LINES
    assert not {n.name: _body_lines(n) for n in functions if _body_lines(n) > BODY_LINES}


def test_modules_are_named_after_what_they_are() -> None:
    """No module is a drawer for leftovers."""
    names = [p for p in _modules(*PACKAGES, "feature_repo", "benchmarks", "tests") if FORBIDDEN_NAMES.fullmatch(p.stem)]

    assert not [_name(p) for p in names]


@pytest.mark.parametrize("path", [p for p in _modules("tests") if p.stem.startswith("test_")], ids=_name)
def test_tests_state_facts(path: Path) -> None:
    """The docstring of every test is one sentence, and every test asserts something."""
    tests = [
        n
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name.startswith("test_")
    ]
    silent = [t.name for t in tests if not (ast.get_docstring(t) or "").endswith(".")]
    vain = [t.name for t in tests if not re.search(r"\bassert|raises\(|check_", ast.unparse(t))]

    assert not silent
    assert not vain


@pytest.mark.parametrize(
    "path", _modules(*PACKAGES, "feature_repo", "benchmarks", "deploy", "docs", "tests"), ids=_name
)
def test_modules_say_what_they_are_for(path: Path) -> None:
    """Every module that holds code has a docstring."""
    tree = ast.parse(path.read_text())

    assert not tree.body or ast.get_docstring(tree)


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
