"""Gathers text from what a machine has: OUT/train/*.txt to learn from, OUT/held_out/*.txt apart.

    python scripts/make_text_data.py runs/text_data --prose tinyshakespeare.txt

English prose (the file given, its last tenth held out, the rest three times: twice as it is and
once typeset), the sources of Python's standard library, READMEs and docstrings of installed
packages, the documentation and licences of Debian, manual pages, Vim's and Perl's documentation,
and, much less of it, the messages of programs and manual pages in many languages. Files of a kind
come in the order of the SHA-1 of their names, each cut at 64 KB and taken once, until the kind has
its share, so that the same machine gives the same text. HELD_OUT names what no kind takes.
"""

import argparse
import ast
import bz2
import gettext
import gzip
import hashlib
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

KB, MB = 1024, 1024 * 1024
FILE_LIMIT, HELD_OUT_LIMIT, PIECE = 64 * KB, MB, MB
SITE, STDLIB = sysconfig.get_paths()["purelib"], sysconfig.get_paths()["stdlib"]
SHARE = "/usr/share"
# kind: its share in bytes, and the folders with the patterns of its files
KINDS = {
    "stdlib": (4 * MB, [(STDLIB, "*.py"), (STDLIB, "*/*.py")]),
    "docstrings": (4 * MB, [(SITE, "*/*.py"), (SITE, "*/*/*.py")]),
    "packages": (2 * MB, [(SITE, "*.dist-info/METADATA"), (SITE, "**/*.md"), (SITE, "**/*.rst")]),
    "web": (MB // 2, [(SITE, "**/*.js"), (SITE, "**/*.css"), (SITE, "**/*.json")]),
    "headers": (MB // 2, [(SITE, "**/*.h"), ("/usr/include", "*.h")]),
    "doc": (4 * MB, [(f"{SHARE}/doc", "**/*")]),
    "licences": (MB // 4, [(f"{SHARE}/common-licenses", "*")]),
    "manual": (3 * MB, [(f"{SHARE}/man", f"man{n}/*.gz") for n in range(1, 9)]),
    "manual_languages": (MB // 4, [(f"{SHARE}/man", "*/man*/*.gz")]),
    "vim": (3 * MB, [(f"{SHARE}/vim", "*/doc/*.txt")]),
    "perl": (MB, [(f"{SHARE}/perl", "*/pod/*.pod"), (f"{SHARE}/perl5", "**/*.pm")]),
    "messages": (MB // 2, [(f"{SHARE}/locale", "*/LC_MESSAGES/*.mo")]),
    "emoji": (MB // 8, [(SITE, "rich/_emoji_codes.py")]),
}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# what no kind takes: (the kind in whose folders it is, pattern)
HELD_OUT = {
    "reference": ("stdlib", "pydoc_data/topics.py"),
    "code": ("stdlib", "[ast][rau][gbr]*.py"),
    "messages": ("messages", "*/LC_MESSAGES/coreutils.mo"),
    "guide": ("vim", "*/doc/usr_*.txt"),
}


def find(folders: Iterable[tuple[str, str]]) -> list[Path]:
    """Files of a kind in the order of the SHA-1 of their names, links left out."""
    found = {
        path
        for folder, pattern in folders
        if Path(folder).is_dir()
        for path in Path(folder).glob(pattern)
        if path.is_file() and not path.is_symlink()
    }
    return sorted(found, key=lambda path: (hashlib.sha1(str(path).encode()).digest(), path))


def held_out_files() -> dict[str, list[Path]]:
    """By the name of the held-out text."""
    return {
        name: find((folder, pattern) for folder in {f for f, _ in KINDS[kind][1]})
        for name, (kind, pattern) in HELD_OUT.items()
    }


def read(path: Path, docstrings: bool, limit: int) -> str:
    """The text of a file, at most `limit` bytes of it; empty if it is none.

    Args:
        docstrings: take the docstrings of a Python file, nothing else of it.
    """
    try:
        if path.suffix == ".mo":
            with path.open("rb") as file:
                catalog = gettext.GNUTranslations(file)._catalog
            text = "\n".join(value for key, value in catalog.items() if key and value)
        else:
            openers = {".gz": gzip.open, ".bz2": bz2.open}
            with openers.get(path.suffix, open)(path, "rb") as file:
                text = file.read(-1 if docstrings else limit).decode("utf-8", "ignore")
        if docstrings:
            nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, DOCUMENTED))
            text = "\n\n".join(filter(None, map(ast.get_docstring, nodes)))
    except (OSError, EOFError, ValueError, SyntaxError):
        return ""
    text = text.encode("utf-8", "ignore")[:limit].decode("utf-8", "ignore")
    return "" if "\0" in text else text


def texts(
    paths: Iterable[Path], share: int, docstrings: bool = False, limit: int = FILE_LIMIT
) -> Iterator[str]:
    """Different texts of the files, until there are `share` bytes."""
    seen: set[bytes] = set()
    for path in paths:
        text = read(path, docstrings, limit)
        digest = hashlib.sha1(text.encode()).digest()
        if text and digest not in seen:
            seen.add(digest)
            share -= len(text.encode())
            yield text
        if share <= 0:
            return


def typeset(text: str) -> str:
    """Plain prose with the quotes, dashes and dots of printed books; speeches get quotes too."""
    for plain, printed in {"'": "\u2019", "--": "\u2014", "...": "\u2026"}.items():
        text = text.replace(plain, printed)
    text = re.sub(r'"([^"]*)"', "\u201c\\1\u201d", text)
    # a play: the name of the speaker on a line of its own
    return re.sub(r"(?m)^(.+:\n)((?:.+\n?)+)", _quoted, text)


def _quoted(speech: re.Match) -> str:
    return f"{speech[1]}\u201c{speech[2].rstrip()}\u201d\n"


def write(folder: Path, name: str, parts: Iterable[str]) -> int:
    """Pieces of about PIECE bytes, name-00.txt and so on; returns the bytes written."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer, number, total = "", 0, 0
    for part in [*parts, None]:
        buffer += "" if part is None else part + "\n"
        data = buffer.encode()
        if data and (part is None or len(data) >= PIECE):
            (folder / f"{name}-{number:02}.txt").write_bytes(data)
            buffer, number, total = "", number + 1, total + len(data)
    return total


def main() -> int:
    warnings.simplefilter("ignore")  # of sources with escapes that Python no longer likes
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--prose", type=Path, help="English prose; its last tenth is held out")
    options = parser.parse_args()
    if options.out.exists() and any(options.out.iterdir()):
        print(f"{options.out} is not an empty folder: choose another one.", file=sys.stderr)
        return 2
    held_out = held_out_files()
    kept_apart = {path for paths in held_out.values() for path in paths}
    sizes = {}
    if options.prose is not None:
        prose = options.prose.read_text(encoding="utf-8")
        cut = len(prose) * 9 // 10
        parts = [prose[:cut], prose[:cut], typeset(prose[:cut])]
        sizes["prose"] = write(options.out / "train", "prose", parts)
        sizes["held out: prose"] = write(options.out / "held_out", "prose", [prose[cut:]])
    for name, (share, folders) in KINDS.items():
        paths = [path for path in find(folders) if path not in kept_apart]
        sizes[name] = write(options.out / "train", name, texts(paths, share, name == "docstrings"))
    for name, paths in held_out.items():
        found = write(
            options.out / "held_out", name, texts(paths, HELD_OUT_LIMIT, limit=HELD_OUT_LIMIT)
        )
        sizes[f"held out: {name}"] = found
    for name, size in sizes.items():
        print(f"{size:>10,} bytes  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
