"""A dataset to codes on disk: plan, tokenize unit by unit, publish, and pick up after a crash.

    source ──plan──▶ units ──worker──▶ parquet bytes ──check, publish──▶ data/ ──▶ vqtok.json

Whatever happens in between, a run that ends holds every planned row exactly once.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vqtok.data import manifest as texts
from vqtok.data.canary import canary_of, check_canary
from vqtok.data.driver import Driver
from vqtok.data.executors import Execution, build_executor
from vqtok.data.jobs import Job, in_profile, pickled
from vqtok.data.numerics import checked_options, frozen_numerics
from vqtok.data.plan import build_plan
from vqtok.data.progress import chosen_style, progress_of
from vqtok.data.publish import STATE, LocalStore
from vqtok.data.schema import RowSchema
from vqtok.data.sources import Source, open_source
from vqtok.devices import EXACT
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
        lost_races: units that this process made, and threw away because another one had published
            them meanwhile.
        numerics: the profile, and what it costs, as in run.json.
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
    lost_races: int = 0
    numerics: dict = field(default_factory=lambda: {"profile": EXACT})

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
        if self.numerics["profile"] != EXACT:
            lines.append(f"numerics: {texts.numerics_in_words(self.numerics)}")
        if self.bad:
            lines.append(f"{self.bad} inputs could not be tokenized: {self.reasons}")
        if self.ignored:
            lines.append(f"{self.ignored} other files were ignored")
        if self.missing_units:
            lines.append(f"{self.missing_units} of {self.units} files are left to other tasks")
        if self.resumed_units:
            lines.append(f"{self.resumed_units} of {self.units} files were there already")
        if self.lost_races:
            lines.append(f"{self.lost_races} files were thrown away: others had been faster")
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
    content_hash: bool | None = None,
    numerics: str | None = None,
    max_flip_rate: float | None = None,
    max_bad_frac: float | None = None,
    executor: str | Execution = "local",
    workers: int | None = 1,
    tokenizer_factory: Callable[[], Any] | None = None,
    resume: bool = False,
    progress: bool | str = False,
) -> TokenizeReport:
    """Tokenize every input of a source into parquet files that `vqtok.load_codes` reads.

    Args:
        source: a folder of images, sounds, texts or vectors, one such file, parquet or arrow files
            or a folder of them.
        out: folder for the codes; must be new or empty unless `resume`.
        tokenizer: an object with `tokenize`, `fingerprint`, `codebook_sizes`, `modality`, `rate`.
        tokenizer_name: what loads the tokenizer again; default: its `name_or_path`.
        unit_rows: inputs per file, and what a crash can cost; default: an eighth of them, but
            64 to 8,192.
        batch_size: inputs of one size per forward; default: as many as pay on this device, many
            small images or one large one.
        keep: columns of a table to carry along.
        column: column of a table (or array of .npz files) with the inputs; default: found by name
            and type.
        num_codebooks: store only the first so many codebooks; default: all.
        content_hash: fill the column of that name, with 64 bits of BLAKE2b of every raw input.
            Equal inputs can then be found without reading them; it costs 8 bytes a row.
        numerics: "exact" (default): float32, repeatable. "bf16": the encoder computes in bfloat16,
            after about a thousand inputs have been encoded both ways, to see how many codes flip.
        max_flip_rate: of "bf16": refuse to begin if more than this part of the codes of any
            codebook flips; default 0.02.
        max_bad_frac: raise, after writing all, if more than this part of the rows is bad.
        executor: "local", "shard" or "ray"; or an `Execution`, which also says how patient to be.
        workers: processes on this machine, or actors of ray, each with a tokenizer of its own,
            which survive an input that ends them. 1: this process does it, and does not. None: as
            many as pay. A script that asks for anything but 1 needs `if __name__ == "__main__":`,
            as every program that starts processes.
        tokenizer_factory: what gives the tokenizer in another process; must be picklable.
            Default: the tokenizer itself is pickled.
        resume: go on with an interrupted run; options left at None are taken from it.
        progress: "bar" (or True) on stderr, plain lines where that is no terminal; "json" lines;
            "none" (or False).

    Raises:
        ConfigError: options that cannot be obeyed, a folder in use, a resume with other options.
        InputError: nothing to tokenize, a source that changed, or too many bad inputs.
        FingerprintError: a resume with another tokenizer.
        FormatError: `out` holds something else than a run.
    """
    started = time.monotonic()
    execution = Execution(executor, workers) if isinstance(executor, str) else executor
    _check_numbers(batch_size, max_bad_frac)
    chosen_style(progress)
    store = LocalStore(Path(out))
    _check_out(store, source, resume, shared=execution.executor == "shard")
    stored = store.read_json(texts.RUN) if store.exists(texts.RUN) else None
    asked = {
        "unit_rows": unit_rows,
        "batch_size": batch_size,
        "keep": list(keep) if keep else None,
        "column": column,
        "num_codebooks": num_codebooks,
        "content_hash": content_hash,
        "numerics": numerics,
        "max_flip_rate": max_flip_rate,
    }
    options = _options(asked, stored, tokenizer)
    exact, tokenizer = tokenizer, in_profile(tokenizer, options["numerics"])
    opened = open_source(source, tokenizer.modality, options["column"], options["keep"])
    plan = build_plan(opened.list(), options["unit_rows"])
    options["unit_rows"] = plan.unit_rows
    described = texts.describe_tokenizer(tokenizer, tokenizer_name or name_of(tokenizer))
    run = texts.new_run(options, described, plan, describe_source(opened))
    run["canary"] = canary_of(tokenizer)
    if stored is None:
        job = new_job(run, opened, None, execution)
        run["numerics"] = frozen_numerics(options, job, plan, exact, tokenizer)
    with store.lock(shared=execution.executor == "shard"):
        driver = Driver(store, run, plan, execution.share())
        driver.begin()
        check_canary(run["canary"], driver.run["canary"], options["max_flip_rate"])
        factory = tokenizer_factory or (None if execution.is_here else pickled(exact))
        job = new_job(driver.run, opened, factory, execution, type(exact).__module__)
        resumed = _make_units(driver, execution, job, tokenizer, progress)
        report = _finish(driver, resumed, started)
    if max_bad_frac is not None:
        report.check_bad_frac(max_bad_frac)
    return report


def _make_units(
    driver: Driver, execution: Execution, job: Job, tokenizer: Any, progress: bool | str
) -> int:
    """Every own unit that is missing; returns how many were there already."""
    scratch, todo = driver.store.path(f"{STATE}/tmp"), len(driver.missing())
    executor = build_executor(execution, job, tokenizer, scratch, todo)
    rows = sum(unit.rows for unit in driver.own)
    with progress_of(rows, progress, "tokenize", texts.tokens_per_second(driver.run)) as bar:
        return driver.tokenize(executor, bar)


def name_of(tokenizer: Any) -> str:
    """What loads the tokenizer again, if it says so."""
    return str(getattr(tokenizer, "name_or_path", "") or "")


def describe_source(source: Source) -> dict:
    """What run.json says of a source."""
    return {"kind": source.kind, "path": source.location, "ignored": source.ignored}


def new_job(
    run: dict,
    source: Source,
    factory: Callable[[], Any] | None,
    execution: Execution,
    module: str = "",
) -> Job:
    """What the workers of a run need."""
    options = run["options"]
    return Job(
        source=source,
        factory=factory,
        encode=run["tokenizer"]["fingerprint"]["encode"],
        schema=RowSchema(texts.stored_sizes(run), source.kept_fields, options["content_hash"]),
        metadata=texts.file_metadata(run),
        batch_size=options["batch_size"],
        canary=run["canary"],
        numerics=options["numerics"],
        max_flip_rate=options["max_flip_rate"],
        device=options["device"],
        decoding=execution.decoding(options["device"]),
        module=module,
    )


def _check_numbers(batch_size: int | None, max_bad_frac: float | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1; got {batch_size}.")
    if max_bad_frac is not None and not 0 <= max_bad_frac <= 1:
        raise ConfigError(f"max_bad_frac must be from 0 to 1; got {max_bad_frac}.")


def _check_apart(source: Any, out: Path) -> None:
    """The codes must not become inputs of the next look at the source."""
    if not isinstance(source, (str, os.PathLike)) or not Path(source).is_dir():
        return
    if out.resolve().is_relative_to(Path(source).resolve()):
        raise ConfigError(
            f"{out} lies inside the source {source}, where a resume would take its files for "
            "inputs. Choose a folder beside it."
        )


def _check_out(store: LocalStore, source: Any, resume: bool, shared: bool) -> None:
    root = store.root
    _check_apart(source, root)
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
        "unit_rows": None,
        "batch_size": None,
        "keep": [],
        "column": None,
        "num_codebooks": tokenizer.num_codebooks,
        "content_hash": False,
        "numerics": EXACT,
        "max_flip_rate": None,
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
    options |= checked_options(options, asked["max_flip_rate"])
    # codes near a tie may differ between kinds of device, so a run stays on one kind
    device = getattr(getattr(tokenizer, "device", None), "type", "cpu")
    return options | {"device": device}


def _finish(driver: Driver, resumed: int, started: float) -> TokenizeReport:
    """Finishes the run, unless other tasks have to; `started` by time.monotonic."""
    missing = driver.missing()
    content = driver.unfinished() if missing else driver.finish()
    counts = content["totals"]
    return TokenizeReport(
        out=str(driver.store.root),
        rows=counts["rows"],
        ok=counts["ok"],
        bad=counts["bad"],
        status=counts["status"],
        tokens=counts["tokens"],
        bytes=counts["bytes"],
        units=len(content["units"]) + len(missing),
        resumed_units=resumed,
        ignored=content["source"]["ignored"],
        seconds=round(time.monotonic() - started, 3),
        missing_units=len(missing),
        lost_races=driver.lost_races,
        numerics=content["numerics"],
    )
