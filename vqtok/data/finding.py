"""SOURCE to files: a folder, one file, a pattern, a URL of these, a name on the Hub."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from vqtok.data.files import Files, LocalFiles, of_split, split_url
from vqtok.data.patterns import expand_braces, is_pattern, is_wild, split_root
from vqtok.errors import InputError

SUPPORTED = (
    "a folder of images, sounds, .txt texts or .npy and .npz vectors (or one such file); parquet, "
    "arrow, .jsonl or webdataset .tar files (or a folder of them); a pattern such as "
    "'data/*.parquet' or 'data/{000..999}.tar'; a URL of one of these that fsspec knows; or "
    "hf://datasets/NAME[:split]"
)


def find_files(source: str | os.PathLike, split: str | None = None) -> tuple[Files, list[str], str]:
    """The files of SOURCE: their root, their names, and what to call it in an error.

    Raises:
        InputError: there are none.
    """
    text, named_split = split_url(str(source))
    split = split or named_split
    files, found = _found(text)
    if not found:
        raise InputError(f"there are no files at {text}; SOURCE is {SUPPORTED}.")
    if text.startswith("hf://datasets/"):
        from vqtok.data.hub_files import choose_config

        found = choose_config(files, found, split, text)
    elif split is not None:
        found = of_a_split(found, split, text)
    return files, found, text


def of_a_split(found: Sequence[str], split: str, what: str) -> list[str]:
    """The files whose names say that they belong to a split."""
    named = [name for name in found if of_split(name, split)]
    if not named:
        raise InputError(f"none of the {len(found)} files of {what} belongs to a split {split!r}.")
    return named


def _found(text: str) -> tuple[Files, list[str]]:
    if "://" in text:
        return _found_remotely(text)
    path = Path(text)
    if path.is_dir():
        files = LocalFiles(path)
        names = list(files.names())
        if not names:
            raise InputError(f"none of the 0 files of {path} is an input; SOURCE is {SUPPORTED}.")
        return files, names
    if path.exists():
        return LocalFiles(path.parent), [path.name]
    if not is_pattern(text):
        raise InputError(f"{path} does not exist; SOURCE is {SUPPORTED}.")
    root, pattern = split_root(text)
    files = LocalFiles(Path(root or "."))
    return files, matching(files, pattern, text)


def _found_remotely(url: str) -> tuple[Files, list[str]]:
    from vqtok.data.remote import remote_files

    if is_pattern(url):
        root, pattern = split_root(url)
        files = remote_files(root)
        return files, matching(files, pattern, url)
    files = remote_files(url)
    if files.is_file():
        parent, _, name = files.location.rpartition("/")
        return remote_files(parent), [name]
    return files, list(files.names())


def matching(files: Files, pattern: str, what: str) -> list[str]:
    """The names under a root that a pattern stands for.

    Raises:
        InputError: there are none, or one that braces name is missing.
        ConfigError: braces that stand for too many names.
    """
    patterns = expand_braces(pattern)
    if is_wild(pattern):
        found = sorted({name for each in patterns for name in _glob(files, each)})
        if not found:
            raise InputError(f"no file fits the pattern {what}.")
        return found
    if isinstance(files, LocalFiles):
        missing = [name for name in patterns if not os.path.lexists(files.root / name)]
    else:
        there = set(files.names())
        missing = [name for name in patterns if name not in there]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(patterns)} files of {what} do not exist, the first is "
            f"{missing[0]}. Write a * for whatever there is."
        )
    return sorted(set(patterns))


def _glob(files: Files, pattern: str) -> list[str]:
    if not isinstance(files, LocalFiles):
        return list(files.matching(pattern))
    found = glob.glob(pattern, root_dir=files.root, recursive=True)
    return [name.replace(os.sep, "/") for name in found if not (files.root / name).is_dir()]
