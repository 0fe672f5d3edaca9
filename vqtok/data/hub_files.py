"""Which files of a dataset on the Hub are meant: those of its configuration and of a split.

    hf://datasets/NAME[@REVISION][/FOLDER][:SPLIT]

A dataset card may name configurations and the files of their splits (`configs:` with `data_files:`
in the YAML of README.md). Of a dataset with several, the default one is taken; the folder of a
configuration names it otherwise. Without such a card all files count, and names tell their split.
"""

import fnmatch
import re
from collections.abc import Sequence

import yaml

from vqtok.data.files import Files
from vqtok.data.finding import of_a_split
from vqtok.errors import InputError

CARD = "README.md"
FRONT = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)
ROOT = re.compile(r"hf://datasets/[^/]+/[^/]+")


def choose_config(files: Files, found: Sequence[str], split: str | None, what: str) -> list[str]:
    """The files of the configuration that is meant, and of a split if one is asked for.

    Raises:
        InputError: several configurations and no default, or no such split.
    """
    configs = read_configs(files, found) if ROOT.fullmatch(files.location) else []
    if not configs:
        return of_a_split(found, split, what) if split else list(found)
    config = default_config(configs, what)
    patterns = splits_of(config)
    if split is not None and None not in patterns:
        if split not in patterns:
            raise InputError(f"{what} has splits {list(patterns)}, but none named {split!r}.")
        patterns = {split: patterns[split]}
    wanted = [pattern for some in patterns.values() for pattern in some]
    named = [name for name in found if any(fits(name, pattern) for pattern in wanted)]
    if not named:
        raise InputError(f"the card of {what} names {wanted}, but there are no such files.")
    return of_a_split(named, split, what) if split and None in patterns else named


def read_configs(files: Files, found: Sequence[str]) -> list[dict]:
    """The configurations that the dataset card describes by files."""
    if CARD not in found:
        return []
    front = FRONT.match(files.read(CARD, 0).decode("utf-8", "replace"))
    try:
        card = yaml.safe_load(front.group(1)) if front else {}
    except yaml.YAMLError as error:
        raise InputError(f"the card of {files.location} is not YAML: {error}") from error
    configs = card.get("configs", []) if isinstance(card, dict) else []
    configs = [config for config in configs or [] if isinstance(config, dict)]
    return [config for config in configs if config.get("data_files") or config.get("data_dir")]


def default_config(configs: Sequence[dict], what: str) -> dict:
    """The only configuration, or the one that the card makes the default."""
    marked = [each for each in configs if each.get("default")]
    marked = marked or [each for each in configs if each.get("config_name") == "default"]
    if len(configs) == 1 or marked:
        return (marked or configs)[0]
    names = [each.get("config_name") for each in configs]
    raise InputError(
        f"{what} has the configurations {names} and no default one: name the folder or the files "
        "of one, as hf://datasets/NAME/FOLDER or hf://datasets/NAME/FOLDER/*.parquet."
    )


def splits_of(config: dict) -> dict[str | None, list[str]]:
    """Patterns of files by split; None where the card does not say which split."""
    folder = str(config.get("data_dir") or "").strip("/")
    entries = config.get("data_files") or "**"
    if isinstance(entries, dict):
        entries = [{"split": split, "path": path} for split, path in entries.items()]
    entries = entries if isinstance(entries, list) else [entries]
    patterns: dict[str | None, list[str]] = {}
    for entry in entries:
        split = entry.get("split") if isinstance(entry, dict) else None
        paths = entry.get("path") if isinstance(entry, dict) else entry
        for path in paths if isinstance(paths, list) else [paths]:
            patterns.setdefault(split, []).append(f"{folder}/{path}" if folder else str(path))
    return patterns


def fits(name: str, pattern: str) -> bool:
    """Whether a name is one of a pattern's; `*` stays within a folder, `**` does not."""
    if "**" in pattern:
        return fnmatch.fnmatchcase(name, pattern.replace("**/", "*").replace("**", "*"))
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
