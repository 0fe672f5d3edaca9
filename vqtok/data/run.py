"""A dataset to codes on disk: plan, tokenize unit by unit, publish, and pick up after a crash.

    source ──plan──▶ units ──worker──▶ parquet bytes ──check, publish──▶ data/ ──▶ vqtok.json

Whatever happens in between, a run that ends holds every planned row exactly once.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vqtok.data import manifest as texts
from vqtok.data.canary import canary_codes, check_canary
from vqtok.data.driver import Driver
from vqtok.data.executors import Execution, build_executor
from vqtok.data.jobs import Job, pickled
from vqtok.data.plan import DEFAULT_UNIT_ROWS, build_plan
from vqtok.data.progress import units_bar
from vqtok.data.publish import STATE, LocalStore
from vqtok.data.schema import RowSchema
from vqtok.data.sources import Source, open_source
from vqtok.errors import ConfigError, FormatError, InputError


@dataclass(frozen=True)
class TokenizeReport:
    """What a finished run holds.

    Attributes:
        status: how many rows there are of each status.
        ignored: files of the source that are not inputs (by their names).
        resumed_units: units that an earlier, interrupted run had published.
        missing_units: units that other tasks of the executor "shard" have yet to make; the run is
            finished by the task that finds none.
    """

    out: str
    rows: int
    ok: int
    bad: int
    status: dict[str, int]
    tokens: int
    bytes: int
    units: int
    resumed_units: int
    ignored: int
    seconds: float
    missing_units: int = 0

    @property
    def bad_frac(self) -> float:
        return self.bad / max(self.rows, 1)

    @property
    def reasons(self) -> str:
        """How many inputs are bad in which way."""
        return ", ".join(f"{n} {name}" for name, n in self.status.items() if name != "ok")

    def check_bad_frac(self, max_bad_frac: float) -> None:
        """Raise InputError if more than this part of the rows is bad; the codes are written."""
        if self.bad_frac > max_bad_frac:
            raise InputError(
                f"{self.bad} of {self.rows} inputs could not be tokenized ({self.reasons}), more "
                f"than the allowed {max_bad_frac:g} of all. The codes of the others are in "
                f"{self.out}; its rows with status other than 'ok' say what is wrong."
            )

    def to_dict(self) -> dict:
        return asdict(self) | {"bad_frac": self.bad_frac}

    def summary(self) -> str:
        """For a person: what was written, and what was not."""
        lines = [f"{self.out}: {self.rows} rows, {self.tokens} tokens in {self.bytes} bytes"]
        if self.bad:
            lines.append(f"{self.bad} inputs could not be tokenized: {self.reasons}")
        if self.ignored:
            lines.append(f"{self.ignored} other files were ignored")
        if self.missing_units:
            lines.append(f"{self.missing_units} of {self.units} files are left to other tasks")
        if self.resumed_units:
            lines.append(f"{self.resumed_units} of {self.units} files were there already")
        return "\n".join(lines)


def tokenize_dataset(
    source: str | os.PathLike | Source,
    out: str | os.PathLike,
    tokenizer: Any,
    *,
    tokenizer_name: str | None = None,
    unit_rows: int | None = None,
    batch_size: int | None = None,
    keep: Sequence[str] | None = None,
    column: str | None = None,
    num_codebooks: int | None = None,
    max_bad_frac: float | None = None,
    executor: str | Execution = "local",
    workers: int = 1,
    tokenizer_factory: Callable[[], Any] | None = None,
    resume: bool = False,
    progress: bool = False,
) -> TokenizeReport:
    """Tokenize every input of a source into parquet files that `vqtok.load_codes` reads.

    Args:
        source: a folder of images, sounds, texts or vectors, one such file, parquet or arrow files
            or a folder of them.
        out: folder for the codes; must be new or empty unless `resume`.
        tokenizer: an object with `tokenize`, `fingerprint`, `codebook_sizes`, `modality`, `rate`.
        tokenizer_name: what loads the tokenizer again; default: its `name_or_path`.
        unit_rows: inputs per file, and what a crash can cost; default 8,192.
        batch_size: inputs per forward; default: the tokenizer's own.
        keep: columns of a table to carry along.
        column: column of a table (or array of .npz files) with the inputs; default: found by name
            and type.
        num_codebooks: store only the first so many codebooks; default: all.
        max_bad_frac: raise, after writing all, if more than this part of the rows is bad.
        executor: "local", "shard" or "ray"; or an `Execution`, which also says how patient to be.
        workers: processes on this machine, or actors of ray, each with a tokenizer of its own;
            more than one survive an input that ends them. A script that asks for more than one
            needs `if __name__ == "__main__":`, as every program that starts processes.
        tokenizer_factory: what gives the tokenizer in another process; must be picklable.
            Default: the tokenizer itself is pickled.
        resume: go on with an interrupted run; options left at None are taken from it.
        progress: show a bar on stderr.

    Raises:
        ConfigError: options that cannot be obeyed, a folder in use, a resume with other options.
        InputError: nothing to tokenize, a source that changed, or too many bad inputs.
        FingerprintError: a resume with another tokenizer.
        FormatError: `out` holds something else than a run.
    """
    started = time.monotonic()
    execution = executor
    if isinstance(executor, str):
        execution = Execution(executor, workers)
    _check_numbers(batch_size, max_bad_frac)
    store = LocalStore(Path(out))
    _check_out(store, resume, shared=execution.executor == "shard")
    stored = store.read_json(texts.RUN) if store.exists(texts.RUN) else None
    asked = {
        "unit_rows": unit_rows,
        "batch_size": batch_size,
        "keep": list(keep) if keep else None,
        "column": column,
        "num_codebooks": num_codebooks,
    }
    options = _options(asked, stored, tokenizer)
    opened = open_source(source, tokenizer.modality, options["column"], options["keep"])
    plan = build_plan(opened.list(), options["unit_rows"])
    name = tokenizer_name or str(getattr(tokenizer, "name_or_path", "") or "")
    described = texts.describe_tokenizer(tokenizer, name)
    run = texts.new_run(options, described, plan, describe_source(opened))
    run["canary"] = canary_codes(tokenizer)
    with store.lock(shared=execution.executor == "shard"):
        driver = Driver(store, run, plan, execution.share())
        driver.begin()
        check_canary(run["canary"], driver.run["canary"])
        alone = execution.executor != "ray" and execution.workers == 1
        factory = tokenizer_factory or (None if alone else pickled(tokenizer))
        job = new_job(driver.run, opened, factory)
        executor = build_executor(execution, job, tokenizer, store.path(f"{STATE}/tmp"))
        with units_bar(plan.rows, progress, _tokens_per_second(run)) as bar:
            resumed = driver.tokenize(executor, bar)
        missing = driver.missing()
        content = driver.unfinished() if missing else driver.finish()
        report = _report(content, store, resumed, len(missing), time.monotonic() - started)
    if max_bad_frac is not None:
        report.check_bad_frac(max_bad_frac)
    return report


def describe_source(source: Source) -> dict:
    """What run.json says of a source."""
    return {"kind": source.kind, "path": source.location, "ignored": source.ignored}


def new_job(run: dict, source: Source, factory: Callable[[], Any] | None) -> Job:
    """What the workers of a run need."""
    return Job(
        source=source,
        factory=factory,
        encode=run["tokenizer"]["fingerprint"]["encode"],
        schema=RowSchema(texts.stored_sizes(run), source.kept_fields),
        metadata=texts.file_metadata(run),
        batch_size=run["options"]["batch_size"],
        canary=run["canary"],
        device=run["options"]["device"],
    )


def _tokens_per_second(run: dict) -> float | None:
    """Of a sound in real time, at the codebooks that the run stores."""
    described = run["tokenizer"]
    if described["rate"]["per"] != "second":
        return None
    sizes = described["codebook_sizes"]
    frames = described["rate"]["bits"] / sum(math.log2(size) for size in sizes)
    return frames * len(texts.stored_sizes(run))


def _check_numbers(batch_size: int | None, max_bad_frac: float | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1; got {batch_size}.")
    if max_bad_frac is not None and not 0 <= max_bad_frac <= 1:
        raise ConfigError(f"max_bad_frac must be from 0 to 1; got {max_bad_frac}.")


def _check_out(store: LocalStore, resume: bool, shared: bool) -> None:
    root = store.root
    if shared and store.exists(STATE):
        return  # other tasks have begun the run, and this one is checked against it
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root} is a file; the codes need a folder.")
    if not root.exists() or not any(root.iterdir()):
        return
    if not resume:
        found = "a finished run" if store.exists(texts.MANIFEST) else "other files"
        found = "an unfinished run" if found == "other files" and store.exists(texts.RUN) else found
        raise ConfigError(
            f"{root} is not empty, it holds {found}. Choose another folder, or pass --resume "
            "(resume=True) to go on with the run that it holds."
        )
    strangers = [entry.name for entry in root.iterdir() if entry.name != ".vqtok"]
    if strangers and not store.exists(texts.RUN):
        raise FormatError(
            f"{root} holds {sorted(strangers)[:3]} but no run to resume (.vqtok/run.json)."
        )


def _options(asked: dict, stored: dict | None, tokenizer: Any) -> dict:
    """Everything the rows depend on: asked for, else as the run was started, else the default."""
    defaults = {
        "unit_rows": DEFAULT_UNIT_ROWS,
        "batch_size": None,
        "keep": [],
        "column": None,
        "num_codebooks": tokenizer.num_codebooks,
    }
    frozen = (stored or {}).get("options", {})
    options = {
        name: asked[name] if asked[name] is not None else frozen.get(name, default)
        for name, default in defaults.items()
    }
    if not 1 <= options["num_codebooks"] <= tokenizer.num_codebooks:
        raise ConfigError(
            f"num_codebooks must be 1 to {tokenizer.num_codebooks} with this tokenizer; got "
            f"{options['num_codebooks']}."
        )
    # codes near a tie may differ between kinds of device, so a run stays on one kind
    device = getattr(getattr(tokenizer, "device", None), "type", "cpu")
    return options | {"device": device}


def _report(
    content: dict, store: LocalStore, resumed: int, missing: int, seconds: float
) -> TokenizeReport:
    counts = content["totals"]
    return TokenizeReport(
        out=str(store.root),
        rows=counts["rows"],
        ok=counts["ok"],
        bad=counts["bad"],
        status=counts["status"],
        tokens=counts["tokens"],
        bytes=counts["bytes"],
        units=len(content["units"]) + missing,
        resumed_units=resumed,
        ignored=content["source"]["ignored"],
        seconds=round(seconds, 3),
        missing_units=missing,
    )
