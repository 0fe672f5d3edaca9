"""What a run says about itself: run.json before, a commit per unit during, vqtok.json after.

run.json freezes what the rows depend on (options, tokenizer, plan); a resumed run must agree with
it. vqtok.json appears last: a folder without it is not finished.
"""

import hashlib
import importlib.metadata
import io
import math
import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from vqtok.data.plan import SPLIT, Plan
from vqtok.data.publish import STATE
from vqtok.data.schema import CODES_FP_CHARS, SCHEMA_VERSION
from vqtok.devices import EXACT
from vqtok.errors import ConfigError, FingerprintError, FormatError
from vqtok.metrics.codebook import codebook_stats

RUN = f"{STATE}/run.json"
PLAN = f"{STATE}/plan.parquet"
USAGE = f"{STATE}/usage.parquet"
MANIFEST = "vqtok.json"
POINTER = "tokenizer/pointer.json"
ID_BITS = 128

CARD = """---
configs:
- config_name: default
  data_files:
  - split: {split}
    path: data/{split}-*.parquet
tags:
- vqtok
- codes
---

# Codes of {name}

{rows} rows, {ok} with codes and {bad} without (`status` and `error` say why), {tokens} tokens.
Made by `vqtok tokenize` with the {modality} tokenizer `{name}`.

- `codes` are flat, in C order of `shape` ({axes}); each is in [0, K) with K = {sizes}.
- Decode fingerprint `{fingerprint}`: only the tokenizer with this fingerprint decodes them.
- `src` and `src_row` name the input; rows are in the order of the source.

```python
import vqtok

codes = vqtok.load_codes("{folder}")
```
"""


def describe_tokenizer(tokenizer: Any, name: str) -> dict:
    """What a run records of its tokenizer; `name` is what loads it again."""
    digests = tokenizer.fingerprint
    return {
        "name": name,
        "class": type(tokenizer).__name__,
        "modality": tokenizer.modality,
        "num_codebooks": tokenizer.num_codebooks,
        "codebook_sizes": list(tokenizer.codebook_sizes),
        "rate": {"bits": tokenizer.rate.bits, "per": tokenizer.rate.per},
        "fingerprint": {
            "encode": digests.encode,
            "decode": digests.decode,
            "codebook": digests.codebook,
        },
    }


def new_run(options: dict, tokenizer: dict, plan: Plan, source: dict) -> dict:
    """The content of run.json."""
    return {
        "schema": SCHEMA_VERSION,
        "options": options,
        "tokenizer": tokenizer,
        "plan_hash": plan.digest(),
        "units": len(plan.units),
        "rows": plan.rows,
        "source": source,
        "software": software(),
    }


def check_same_run(stored: dict, now: dict) -> None:
    """Raise, naming the first difference, unless a resumed run is the one that was started.

    Raises:
        FingerprintError: another tokenizer.
        ConfigError: another option.
    """
    if stored.get("schema") != SCHEMA_VERSION:
        raise FormatError(
            f"the run was started with schema {stored.get('schema')!r}; this vqtok writes "
            f"schema {SCHEMA_VERSION}. Resume it with the version that started it."
        )
    _check_option("numerics", stored, now)  # first, because the encode fingerprint follows it
    before, after = stored["tokenizer"]["fingerprint"], now["tokenizer"]["fingerprint"]
    for part in ("codebook", "decode", "encode"):
        if before[part] != after[part]:
            raise FingerprintError(
                f"cannot resume with another tokenizer: the run was started with "
                f"{stored['tokenizer']['name']!r}, {part} fingerprint {before[part][:16]}; "
                f"{now['tokenizer']['name']!r} has {after[part][:16]}. Use the first one, or "
                "start a new run in another folder."
            )
    for name in stored["options"]:
        _check_option(name, stored, now)


def _check_option(name: str, stored: dict, now: dict) -> None:
    before, after = stored["options"].get(name), now["options"].get(name)
    if before != after:
        raise ConfigError(
            f"cannot resume with another {name}: the run was started with {name}={before!r}, now "
            f"it is {after!r}. Use the first value, or start a new run in another folder."
        )


def numerics_in_words(numerics: dict) -> str:
    """The numerics profile of a run, and what it costs and gains."""
    if numerics["profile"] == EXACT:
        return EXACT
    rates = numerics["flip_rate"]
    which = "codes" if len(rates) == 1 else "codes of the worst codebook"
    return (
        f"{numerics['profile']}, {max(rates):.2%} of the {which} differ from exact, encoding is "
        f"{numerics['speedup']:.2f} times as fast ({numerics['samples']} inputs measured)"
    )


def file_metadata(run: dict) -> dict[str, str]:
    """Key-value metadata of every data file, so that a file alone says what it is."""
    prints = run["tokenizer"]["fingerprint"]
    sizes = stored_sizes(run)
    return {
        "vqtok.schema": str(SCHEMA_VERSION),
        "vqtok.plan_hash": run["plan_hash"],
        "vqtok.encode_fp": prints["encode"],
        "vqtok.decode_fp": prints["decode"],
        "vqtok.codebook_fp": prints["codebook"],
        "vqtok.codebook_sizes": ",".join(map(str, sizes)),
    }


def commit_name(unit_id: int) -> str:
    """The file of a unit's commit."""
    return f"{STATE}/commits/{unit_id:05d}.json"


def stored_sizes(run: dict) -> tuple[int, ...]:
    """K of each codebook that the run stores."""
    return tuple(run["tokenizer"]["codebook_sizes"][: run["options"]["num_codebooks"]])


def tokens_per_second(run: dict) -> float | None:
    """Of a sound in real time, at the codebooks that the run stores; None for other inputs."""
    described = run["tokenizer"]
    if described["rate"]["per"] != "second":
        return None
    frames = described["rate"]["bits"] / sum(math.log2(k) for k in described["codebook_sizes"])
    return frames * len(stored_sizes(run))


def ids_sum(ids: Iterable[str]) -> int:
    """Sum of 128-bit hashes of the ids: the same for the same multiset, whatever the order."""
    hashes = (hashlib.blake2b(key.encode(), digest_size=ID_BITS // 8).digest() for key in ids)
    return sum(int.from_bytes(digest, "big") for digest in hashes)


def id_hex(total: int) -> str:
    """A sum of ids as it is stored."""
    return f"{total % (1 << ID_BITS):0{ID_BITS // 4}x}"


def totals(commits: list[dict]) -> dict:
    """Sums over all commits of a run."""
    status = Counter()
    for commit in commits:
        status.update(commit["status"])
    summed = {key: sum(c[key] for c in commits) for key in ("rows", "ok", "bad", "tokens", "bytes")}
    digest = id_hex(sum(int(commit["ids_digest"], 16) for commit in commits))
    return summed | {"status": dict(sorted(status.items())), "ids_digest": digest}


def new_manifest(run: dict, commits: list[dict], usage: list[dict]) -> dict:
    """The content of vqtok.json."""
    sizes = stored_sizes(run)
    keys = ("unit", "file", "rows", "ok", "bad", "tokens", "bytes", "sha256")
    stream = {
        "name": "codes",
        "num_codebooks": len(sizes),
        "codebook_sizes": list(sizes),
        "axes": ["codebook", *AXES[run["tokenizer"]["modality"]]],
        "rate": run["tokenizer"]["rate"],
    }
    return run | {
        "streams": [stream],
        "totals": totals(commits),
        "units": [{key: commit[key] for key in keys} for commit in commits],
        "code_usage": usage,
    }


def usage_table(counts: list[np.ndarray]) -> bytes:
    """How often every code occurs, as a parquet file: codebook, code, count."""
    columns = {
        "codebook": np.repeat(np.arange(len(counts), dtype=np.int32), [c.size for c in counts]),
        "code": np.concatenate([np.arange(c.size) for c in counts]),
        "count": np.concatenate(counts),
    }
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression="zstd")
    return out.getvalue()


def usage_summary(counts: list[np.ndarray]) -> list[dict]:
    """Health of each codebook over the whole run."""
    return [asdict(codebook_stats(torch.from_numpy(count))) for count in counts]


AXES = {
    "image": ["height", "width"],
    "audio": ["frame"],
    "text": ["position"],
    "embedding": ["vector"],
}


def card(manifest: dict, folder: str) -> str:
    """The README of a run, with the YAML that lets `datasets.load_dataset` find its files."""
    tokenizer, counts = manifest["tokenizer"], manifest["totals"]
    stream = manifest["streams"][0]
    return CARD.format(
        split=SPLIT,
        name=tokenizer["name"] or tokenizer["class"],
        modality=tokenizer["modality"],
        folder=folder,
        fingerprint=tokenizer["fingerprint"]["decode"][:CODES_FP_CHARS],
        sizes=stream["codebook_sizes"],
        axes=", ".join(stream["axes"]),
        **{key: counts[key] for key in ("rows", "ok", "bad", "tokens")},
    )


def software() -> dict[str, str]:
    """Versions that codes may depend on."""
    versions = {"python": platform.python_version()}
    for name in ("vqtok", "torch", "pillow", "pyarrow", "transformers"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
