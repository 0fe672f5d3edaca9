"""Codes of a run for training: a torch IterableDataset that shards, shuffles and resumes exactly.

Every epoch is one order of all rows, drawn from (seed, epoch): the row groups of the files in any
order, one after the other. The order is cut into one part a rank, and that into one a loader
worker; so each row goes to one consumer, and each consumer reads its own part of the files only.
Nothing is padded or repeated, and the parts differ by a row at most.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch.utils.data import IterableDataset, get_worker_info

from vqtok.data.reader import StoredRun, open_run
from vqtok.errors import ConfigError, FormatError

COLUMNS = ("codes", "shape", "src", "src_row", "meta", "orig_h", "orig_w", "codes_fp")
SHUFFLE_ROWS = 16_384


class CodesStream(IterableDataset):
    """Rows of a finished run; rows without codes are left out.

    Args:
        folder: what `vqtok tokenize` wrote.
        columns: of each row; `codes` come as an int64 tensor [Q, *grid], the rest as it is stored.
        seed: of the order; None: the order of the source, every epoch (each consumer has a part of
            it that is in one piece).
        rank: of this process among `world`; default: from RANK and WORLD_SIZE, else 0 of 1.
        world: number of processes.
        equal: give every rank the same number of rows, as training in lockstep needs; fewer rows
            than there are ranks, the last ones of the epoch's order, sit the epoch out.
        shuffle_rows: rows whose order is mixed, and that are held in memory at once: whole row
            groups (of a million codes) until there are as many.
        allow_incomplete: also read a run that is not finished.

    `state_dict()` and `load_state_dict()` are those of one consumer, as torchdata's
    StatefulDataLoader wants them of each of its workers: the next row is the one that would have
    come. A state of another run, order or share is refused. `len()` is the rank's number of rows.

    A new iterator begins the epoch anew, unless a state was loaded; one that reached the end goes
    on to the next epoch. Loader workers cannot know about each other's end: with them, call
    `set_epoch` before every epoch, as for torch's DistributedSampler (persistent workers hear it).

    A row moves anywhere in the epoch, but its neighbours in a row group stay near it.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        columns: tuple[str, ...] = COLUMNS,
        seed: int | None = 0,
        rank: int | None = None,
        world: int | None = None,
        equal: bool = False,
        shuffle_rows: int = SHUFFLE_ROWS,
        allow_incomplete: bool = False,
    ):
        super().__init__()
        self.run = open_run(folder, allow_incomplete)
        self.columns = tuple(dict.fromkeys(columns))
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._place: tuple[int, int] | None = None  # epoch, rows given
        self.rank = int(os.environ.get("RANK", 0)) if rank is None else rank
        self.world = int(os.environ.get("WORLD_SIZE", 1)) if world is None else world
        self.equal, self.shuffle_rows = equal, shuffle_rows
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank must be 0 to {self.world - 1}; got {self.rank}.")
        if shuffle_rows < 1:
            raise ConfigError(f"shuffle_rows must be at least 1; got {shuffle_rows}.")
        self.groups = row_groups(self.run, self.columns)
        self.rows = sum(group.good for group in self.groups)
        self._loaded: dict[str, Any] | None = None

    def __len__(self) -> int:
        first, last = self._part(self.rank, self.world)
        return last - first

    @property
    def epoch(self) -> int:
        """The epoch that the next iterator begins."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """The order of that epoch, from its start."""
        self._epoch.fill_(epoch)
        self._place = self._loaded = None

    def state_dict(self) -> dict[str, Any]:
        """Where this consumer is: it has given `taken` rows of its share of `epoch`."""
        epoch, taken = self._place or (self.epoch, 0)
        return {"epoch": epoch, "taken": taken} | self._share()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a consumer was, at the next iterator.

        Raises:
            ConfigError: at the next row, if the state is of another run, share or order.
        """
        self._loaded = dict(state)
        self._place = (state["epoch"], state["taken"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        share, epoch, taken = self._share(), self.epoch, 0
        if self._loaded is not None:
            self._check_loaded(share)
            epoch, taken = self._loaded["epoch"], self._loaded["taken"]
            self._loaded = None
        self._place = (epoch, taken)
        first, last = self._part(self.rank, self.world)
        cuts = [first + (last - first) * w // share["workers"] for w in range(share["workers"] + 1)]
        start, end = cuts[share["worker"]], cuts[share["worker"] + 1]
        for row in self._rows(epoch, start, end, taken):
            taken += 1
            self._place = (epoch, taken)
            yield row
        self._place = (epoch + 1, 0)
        if get_worker_info() is None:
            self._epoch.fill_(epoch + 1)

    def _share(self) -> dict[str, Any]:
        """What a state must agree in."""
        info = get_worker_info()
        workers, worker = (1, 0) if info is None else (info.num_workers, info.id)
        order = {"seed": self.seed, "shuffle_rows": self.shuffle_rows, "equal": self.equal}
        place = {"rank": self.rank, "world": self.world, "worker": worker, "workers": workers}
        return order | place | {"rows": self.rows, "plan": self.run.content["plan_hash"][:16]}

    def _check_loaded(self, now: dict[str, Any]) -> None:
        was = {name: self._loaded.get(name) for name in now}
        other = [f"{key} {was[key]!r}, now {now[key]!r}" for key in now if was[key] != now[key]]
        if other:
            raise ConfigError(
                f"a state cannot go on in another run, order or share ({'; '.join(other)}): use "
                "what it was taken with, or start an epoch with set_epoch."
            )

    def _part(self, index: int, parts: int) -> tuple[int, int]:
        """Where the rows of a rank begin and end in the order of an epoch."""
        if self.equal:
            size = self.rows // parts
            return index * size, (index + 1) * size
        return self.rows * index // parts, self.rows * (index + 1) // parts

    def _rows(self, epoch: int, start: int, end: int, skip: int) -> Iterator[dict[str, Any]]:
        """Rows `start` to `end` of an epoch's order, mixed among themselves, without the first."""
        for number, pieces in enumerate(self._blocks(epoch, start, end)):
            sizes = [last - first for _, first, last in pieces]
            if skip >= sum(sizes):
                skip -= sum(sizes)
                continue
            opened = [open_group(self.run, group, self.columns) for group, _, _ in pieces]
            piece = np.repeat(np.arange(len(pieces)), sizes)
            row = np.concatenate([np.arange(first, last) for _, first, last in pieces])
            order = np.arange(len(row))
            if self.seed is not None:
                np.random.default_rng((self.seed, epoch, start, number)).shuffle(order)
            order = order[skip:]
            for which, index in zip(piece[order].tolist(), row[order].tolist(), strict=True):
                yield opened[which].row(index)
            skip = 0

    def _blocks(self, epoch: int, start: int, end: int) -> Iterator[list[tuple["Group", int, int]]]:
        """Pieces of row groups (group, first row, behind its last row) that are mixed together."""
        numbers = np.arange(len(self.groups))
        if self.seed is not None:
            np.random.default_rng((self.seed, epoch)).shuffle(numbers)
        place, held, pieces = 0, 0, []
        for group in (self.groups[number] for number in numbers):
            first, last = max(start - place, 0), min(end - place, group.good)
            place += group.good
            if first < last:
                pieces.append((group, first, last))
                held += last - first
            if held >= self.shuffle_rows:
                yield pieces
                held, pieces = 0, []
        if pieces:
            yield pieces


@dataclass(frozen=True)
class Group:
    """A row group: its file among the run's, its number there, and how many rows have codes."""

    file: int
    number: int
    good: int


class OpenGroup:
    """Rows with codes of one row group, by their number among these."""

    def __init__(self, columns: tuple[str, ...], values: dict[str, Any]):
        self.columns, self.values = columns, values
        self.plain = [name for name in columns if name != "codes"]

    def row(self, index: int) -> dict[str, Any]:
        values = self.values
        found = {name: values[name][index] for name in self.plain}
        if "codes" in values:
            flat, starts, shapes = values["codes"]
            codes = flat[starts[index] : starts[index + 1]].astype(np.int64)
            found["codes"] = torch.from_numpy(codes.reshape(shapes[index]))
        return found


def open_group(run: StoredRun, group: Group, columns: tuple[str, ...]) -> OpenGroup:
    """Read the rows with codes of one row group.

    Raises:
        FormatError: it has changed since the stream was made.
    """
    path = run.files[group.file]
    names = list(dict.fromkeys([*columns, "shape", "status"]))
    with pq.ParquetFile(path) as file:
        table = file.read_row_group(group.number, columns=names, use_threads=False)
    if table.num_rows != group.good:
        table = table.filter(pc.equal(table["status"], "ok"))
    if table.num_rows != group.good or table["shape"].null_count:
        raise FormatError(
            f"{path} is not what it was: row group {group.number} had {group.good} rows with "
            f"codes, and has {table.num_rows}. Try `vqtok verify`."
        )
    values = {name: table[name].to_pylist() for name in columns if name != "codes"}
    if "codes" in columns:
        codes = table["codes"].combine_chunks()
        starts = np.cumsum([0, *codes.value_lengths().to_pylist()]).tolist()
        shapes = values.get("shape") or table["shape"].to_pylist()
        values["codes"] = (codes.flatten().to_numpy(zero_copy_only=False), starts, shapes)
    return OpenGroup(columns, values)


def row_groups(run: StoredRun, columns: tuple[str, ...]) -> list[Group]:
    """The row groups of a run that have rows with codes, in order.

    Raises:
        ConfigError: a column that the run does not have.
    """
    units = run.content["units"] if run.finished else ()
    whole = {unit["file"] for unit in units if not unit["bad"]}
    found = []
    for number, path in enumerate(run.files):
        with pq.ParquetFile(path) as file:
            if strange := [name for name in columns if name not in file.schema_arrow.names]:
                raise ConfigError(
                    f"{path} has no columns {strange}; it has {file.schema_arrow.names}."
                )
            for group in range(file.num_row_groups):
                good = file.metadata.row_group(group).num_rows
                if path.relative_to(run.root).as_posix() not in whole:
                    table = file.read_row_group(group, ["status"], use_threads=False)
                    good = table["status"].to_pylist().count("ok")
                if good:
                    found.append(Group(number, group, good))
    return found
