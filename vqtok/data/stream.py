"""Codes of a run for training: a torch IterableDataset that shards, shuffles and resumes exactly.

Every epoch is one order of all rows, drawn from (seed, epoch). Consumer c of C (C is the number of
ranks times the number of loader workers) takes rows c, c + C, c + 2 C, ... of that order, so each
row goes to one consumer, and no consumer is more than a row ahead. Nothing is padded or repeated.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.utils.data import IterableDataset, get_worker_info

from vqtok.data.reader import batch_rows, open_run
from vqtok.errors import ConfigError

COLUMNS = ("codes", "shape", "src", "src_row", "meta", "orig_h", "orig_w", "codes_fp")
GROUP_MIX = 4  # row groups whose rows are shuffled together, and that are held at once


class CodesStream(IterableDataset):
    """Rows of a finished run; rows without codes are left out.

    Args:
        folder: what `vqtok tokenize` wrote.
        columns: of each row; `codes` come as an int64 tensor [Q, *grid], the rest as it is stored.
        seed: of the order; None: the order of the source, every epoch.
        rank: of this process among `world`; default: from RANK and WORLD_SIZE, else 0 of 1.
        world: number of processes.
        allow_incomplete: also read a run that is not finished.

    `state_dict()` and `load_state_dict()` are those of one consumer, as torchdata's
    StatefulDataLoader wants them of each of its workers: the next row is the one that would have
    come. A state of another seed, rank, world or number of workers is refused.

    Shuffling mixes whole row groups, and the rows of 4 of them at a time, so that reading stays
    quick; a row moves anywhere in the epoch, but its neighbours in a group stay near it.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        columns: tuple[str, ...] = COLUMNS,
        seed: int | None = 0,
        rank: int | None = None,
        world: int | None = None,
        allow_incomplete: bool = False,
    ):
        super().__init__()
        self.run = open_run(folder, allow_incomplete)
        self.columns = tuple(dict.fromkeys(columns))
        self.seed, self.epoch, self.taken = seed, 0, 0
        self.rank = int(os.environ.get("RANK", 0)) if rank is None else rank
        self.world = int(os.environ.get("WORLD_SIZE", 1)) if world is None else world
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank must be 0 to {self.world - 1}; got {self.rank}.")
        self.groups = row_groups(self.run.files)
        self._loaded: dict[str, Any] | None = None

    def set_epoch(self, epoch: int) -> None:
        """The order of that epoch, from its start."""
        self.epoch, self.taken = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where this consumer is: it has given `taken` rows of its share of `epoch`."""
        consumer, consumers = self._consumer()
        place = {"epoch": self.epoch, "taken": self.taken}
        return place | {"seed": self.seed, "consumer": consumer, "consumers": consumers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a consumer was.

        Raises:
            ConfigError: at the next row, if the state is of another share or order.
        """
        self.epoch, self.taken, self._loaded = state["epoch"], state["taken"], dict(state)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        consumer, consumers = self._consumer()
        self._check_loaded(consumer, consumers)
        start = self.taken
        reader = GroupReader(self.run.files, self.columns)
        for number, (group, row) in enumerate(self._order(consumer, consumers)):
            if number < start:
                continue
            values = reader.row(*self.groups[group][:2], row)
            self.taken = number + 1
            yield values
        self.epoch, self.taken = self.epoch + 1, 0

    def _check_loaded(self, consumer: int, consumers: int) -> None:
        if self._loaded is None:
            return
        now = {"seed": self.seed, "consumer": consumer, "consumers": consumers}
        was = {name: self._loaded[name] for name in now}
        if now != was:
            raise ConfigError(
                f"a state of {was} cannot go on as {now}: use the same seed, ranks and number of "
                "loader workers, or start an epoch with set_epoch."
            )

    def _consumer(self) -> tuple[int, int]:
        info = get_worker_info()
        workers, worker = (1, 0) if info is None else (info.num_workers, info.id)
        return self.rank * workers + worker, self.world * workers

    def _order(self, consumer: int, consumers: int) -> Iterator[tuple[int, int]]:
        """(row group, row in it) of the rows of one consumer, in the order of the epoch."""
        numbers = np.arange(len(self.groups))
        if self.seed is not None:
            np.random.default_rng((self.seed, self.epoch)).shuffle(numbers)
        place = 0
        for first in range(0, len(numbers), GROUP_MIX):
            mixed = [
                (int(group), int(row))
                for group in numbers[first : first + GROUP_MIX]
                for row in self.groups[group][2]
            ]
            if self.seed is not None:
                np.random.default_rng((self.seed, self.epoch, first)).shuffle(mixed)
            skip = (consumer - place) % consumers
            place += len(mixed)
            yield from ((group, row) for group, row in mixed[skip::consumers])


class GroupReader:
    """Rows of row groups, of which the last few stay in memory."""

    def __init__(self, files: tuple, columns: tuple[str, ...]):
        self.files, self.columns = files, columns
        self._cache: OrderedDict[tuple[int, int], list[dict]] = OrderedDict()

    def row(self, file: int, group: int, row: int) -> dict[str, Any]:
        key = (file, group)
        if key not in self._cache:
            names = list(dict.fromkeys([*self.columns, "shape"]))
            with pq.ParquetFile(self.files[file]) as opened:
                table = opened.read_row_group(group, columns=names, use_threads=False)
            self._cache[key] = [r for b in table.to_batches() for r in batch_rows(b)]
            if len(self._cache) > GROUP_MIX:
                self._cache.popitem(last=False)
        values = self._cache[key][row]
        found = {name: values[name] for name in self.columns}
        if "codes" in found:
            found["codes"] = torch.from_numpy(found["codes"])
        return found


def row_groups(files: tuple) -> list[tuple[int, int, np.ndarray]]:
    """(file, row group, its rows that have codes) of a run, in order."""
    found = []
    for number, path in enumerate(files):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                status = file.read_row_group(group, ["status"], use_threads=False)[
                    "status"
                ].to_numpy()
                good = np.flatnonzero(status == "ok").astype(np.int32)
                if good.size:
                    found.append((number, group, good))
    return found
