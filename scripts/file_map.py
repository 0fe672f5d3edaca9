"""The file map of the README, read from the files: `python scripts/file_map.py` rewrites it.

A file's clause is the first sentence of its docstring, or of its first comment. With --check
nothing is written, and the exit code is 1 if the README has another map.
"""

import ast
import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
FOLDERS = ("vqtok", "scripts", "recipes", "benchmarks")
# folders without a Python docstring to read
ABOUT = {
    "scripts/": "What a clone runs",
    "recipes/": "What `vqtok train` takes",
    "benchmarks/": "Every speed and quality claim, with the command that measures it",
}
# folders that one line stands for
LEAVES = {
    "vqtok/pretrained/": "The tokenizers that ship in the wheel: safetensors and configuration",
    "vqtok/samples/": "The photos that ship in the wheel, with their sources and licences",
    "model_cards/": "What bundled tokenizers were trained on, the licence, the numbers, the limits",
    "tests/": "Mirrors vqtok/; test_{floors,style,project,readme} hold the rules",
}
NAME_WIDTH = 30
BLOCK = re.compile(r"(?<=## File map\n\n```text\n).*?(?=^```$)", re.M | re.S)


def file_map() -> str:
    """The map as text: a line for every folder, and under it one for every file."""
    files = [
        path
        for folder in FOLDERS
        for path in sorted((REPOSITORY / folder).rglob("*"))
        if path.suffix in (".py", ".sh", ".yaml") and "__pycache__" not in path.parts
    ]
    names = {path: path.relative_to(REPOSITORY).as_posix() for path in files}
    folders = {f"{Path(name).parent.as_posix()}/" for name in names.values()} | set(LEAVES)
    lines = []
    for folder in sorted(folders, key=folder_order):
        inside = [path for path in files if f"{Path(names[path]).parent.as_posix()}/" == folder]
        roof = REPOSITORY / folder / "__init__.py"
        clause = (ABOUT | LEAVES).get(folder) or (clause_of(roof) if roof in inside else "")
        lines.append(f"{folder:{NAME_WIDTH + 2}} {clause}".rstrip())
        lines += [
            f"  {path.name:{NAME_WIDTH}} {clause_of(path)}"
            for path in inside
            if path.name != "__init__.py" and folder not in LEAVES
        ]
    return "\n".join(lines) + "\n"


def folder_order(folder: str) -> tuple[int, str]:
    roots = [*FOLDERS, "model_cards", "tests"]
    return roots.index(folder.split("/")[0]), folder


def clause_of(path: Path) -> str:
    """The first sentence that the file says about itself."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        comments = re.match(r"(?:#!.*\n)?((?:#.*\n?)*)", text).group(1)
        said = re.sub(r"^# ?", "", comments, flags=re.M)
    paragraph = " ".join(said.split("\n\n")[0].split())
    return re.split(r"(?<=[a-z0-9)`\]])\. |\.$", paragraph)[0]


def main() -> int:
    text = README.read_text(encoding="utf-8")
    renewed = BLOCK.sub(lambda _: file_map(), text)
    if "--check" in sys.argv[1:]:
        return int(renewed != text)
    README.write_text(renewed, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
