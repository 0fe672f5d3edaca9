"""The house rules that a linter does not hold; CONTRIBUTING.md lists them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "vqtok"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = [
    path
    for folder in ("vqtok", "tests", "scripts", "benchmarks")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_CONSTRUCTOR_ARGUMENTS = 10  # and self

Function = ast.FunctionDef | ast.AsyncFunctionDef


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def called_name(node: ast.AST) -> str:
    return ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""


def body_lines(function: Function) -> int:
    """Lines of a function without its docstring."""
    documented = ast.get_docstring(function) is not None and len(function.body) > 1
    docstring = function.body[0]
    taken = docstring.end_lineno - docstring.lineno + 1 if documented else 0
    return function.end_lineno - function.lineno + 1 - taken


def arguments(function: Function) -> list[str]:
    spec = function.args
    names = [argument.arg for argument in spec.posonlyargs + spec.args + spec.kwonlyargs]
    return [name for name in names if name not in ("self", "cls")]


def faults_of(path: Path) -> list[str]:
    """One line for every broken rule in a file of the package."""
    faults = []
    for node in nodes(path):
        place = f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Assert):
            faults.append(f"{place}: assert; raise a VqtokError that says what to do")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            faults.append(f"{place}: print; log it, or print through the command line's console")
        elif isinstance(node, ast.ExceptHandler):
            caught = "everything" if node.type is None else ast.unparse(node.type)
            if caught in ("everything", "Exception", "BaseException"):
                faults.append(f"{place}: catches {caught}; name the errors")
        elif called_name(node) == "register_buffer" and any(
            key.arg == "persistent" and ast.unparse(key.value) == "False" for key in node.keywords
        ):
            faults.append(f"{place}: a non-persistent buffer; transformers loses its values")
        elif isinstance(node, Function):
            if body_lines(node) > MAX_FUNCTION_LINES:
                faults.append(f"{place}: {node.name} has {body_lines(node)} lines")
            if node.name == "__init__" and len(arguments(node)) > MAX_CONSTRUCTOR_ARGUMENTS:
                faults.append(f"{place}: __init__ takes {len(arguments(node))} arguments")
    return faults


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_keeps_the_house_rules(path):
    assert faults_of(path) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("assert True\n", "assert"),
        ("print('x')\n", "print"),
        ("try:\n    pass\nexcept Exception:\n    pass\n", "catches Exception"),
        ("try:\n    pass\nexcept:\n    pass\n", "catches everything"),
        ("m.register_buffer('x', y, persistent=False)\n", "non-persistent"),
        ("def f():\n" + "    x = 1\n" * 60, "f has 61 lines"),
        ("class A:\n    def __init__(self, a, b, c, d, e, f, g, h, i, j, k): ...\n", "takes 11"),
    ],
)
def test_a_planted_fault_is_found(tmp_path, text, fault):
    (tmp_path / "planted.py").write_text(text)

    (found,) = faults_of(tmp_path / "planted.py")

    assert fault in found


def test_no_file_is_longer_than_it_may_be():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PROGRAMS}

    assert {str(p): n for p, n in lengths.items() if n >= MAX_FILE_LINES} == {}


def test_every_module_says_what_it_is_for():
    silent = [
        str(path.relative_to(REPOSITORY))
        for path in MODULES
        if path.name != "__init__.py"
        and ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None
    ]

    assert silent == []


def test_every_todo_names_an_issue_or_a_version():
    vague = re.compile(r"\b(TODO|FIXME|XXX)\b(?!\((#\d+|v?\d+\.\d+)\))")
    this = Path(__file__)

    found = [str(p) for p in PROGRAMS if p != this and vague.search(p.read_text(encoding="utf-8"))]

    assert found == []


def test_ruff_has_one_version_everywhere(pyproject):
    hooks = (REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8")

    wanted = {name for name in pyproject["dependency-groups"]["test"] if "ruff" in name}

    assert set(re.findall(r"ruff==[\d.]+", hooks)) == wanted
