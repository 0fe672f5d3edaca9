"""The driver of one run: freeze it, publish every unit that is missing, finish it.

It alone writes into the run's folder (of "shard", each task for its own units). Before a unit's
file is published a crash means that the unit is made again; after it, that the next start adopts
it.
"""

import logging
import time
from pathlib import Path

import numpy as np

from vqtok.data import manifest as texts
from vqtok.data.check import UnitCheck, check_unit
from vqtok.data.dispatch import Dispatcher
from vqtok.data.executors import Executor
from vqtok.data.failpoints import failpoint
from vqtok.data.plan import Plan, Unit, plan_difference
from vqtok.data.progress import Progress
from vqtok.data.publish import LocalStore, to_json
from vqtok.data.worker import Clock, UnitResult
from vqtok.errors import FormatError, InputError

logger = logging.getLogger(__name__)


class Driver:
    """One run in one folder, whose lock the caller holds.

    Args:
        store: the folder.
        run: what run.json says, or will say.
        plan: the units, as the source is now.
        share: (this task, number of tasks): every so many-th unit is this driver's own.
    """

    def __init__(self, store: LocalStore, run: dict, plan: Plan, share: tuple[int, int] = (0, 1)):
        self.store = store
        self.run = run
        self.plan = plan
        self.share = share
        self.lost_races = 0

    def begin(self) -> None:
        """Freeze a new run, or check that this is the run which was frozen."""
        store = self.store
        # tasks that share a run begin at the same time: one of them wins
        if not store.exists(texts.RUN) and store.publish(texts.RUN, to_json(self.run)):
            failpoint("after_run")
        stored = store.read_json(texts.RUN)
        texts.check_same_run(stored, self.run)
        if not store.exists(texts.PLAN) and stored["plan_hash"] == self.plan.digest():
            store.replace(texts.PLAN, self.plan.to_parquet())
            failpoint("after_plan")
        old = self._stored_plan(stored)
        if difference := plan_difference(old, self.plan):
            raise InputError(
                "cannot resume: the source is not what it was when the run was planned: "
                f"{difference}. Bring it back, or start a new run in another folder."
            )
        self.run = stored

    def _stored_plan(self, stored: dict) -> Plan:
        path = self.store.path(texts.PLAN)
        if not path.exists():
            raise FormatError(f"{path} is missing; the run cannot go on.")
        plan = Plan.from_parquet(path.read_bytes(), str(path))
        if plan.digest() != stored["plan_hash"]:
            raise FormatError(f"{path} is not the plan that run.json was made with.")
        return plan

    @property
    def own(self) -> list[Unit]:
        """The units that are this driver's to make."""
        index, total = self.share
        return [unit for unit in self.plan.units if unit.unit_id % total == index]

    def missing(self) -> list[Unit]:
        """Units of the whole run that nobody has published."""
        return [unit for unit in self.plan.units if not self._is_published(unit)]

    def _is_published(self, unit: Unit) -> bool:
        return self.store.exists(self.plan.file_name(unit.unit_id))

    def tokenize(self, executor: Executor, bar: Progress) -> int:
        """Publish every own unit that is missing; returns how many were there already."""
        missing = {unit.unit_id for unit in self.missing()}
        todo = [unit for unit in self.own if unit.unit_id in missing]
        done = [unit for unit in self.own if unit.unit_id not in missing]
        if missing and self.store.exists(texts.MANIFEST):
            raise FormatError(
                f"{self.store.root} is a finished run that has lost "
                f"{self.plan.file_name(min(missing))}; bring the file back, or remove "
                f"{texts.MANIFEST} to have it made again."
            )
        for unit in done:
            self._adopt(unit.unit_id)
            bar.adopted(unit.rows)
        if todo:
            dispatcher = Dispatcher(todo, bar, self._is_published)
            executor.run(dispatcher, lambda result: self._on_result(result, dispatcher, bar))
        return len(done)

    def _on_result(self, result: UnitResult, dispatcher: Dispatcher, bar: Progress) -> None:
        name = self.plan.file_name(result.unit_id)
        clock = Clock()
        commit = clock.time("check", self._check, result.unit_id, result.data).commit()
        if clock.time("publish", self.store.publish, name, result.data, result.unit_id):
            seconds = result.seconds | clock.seconds
            seconds = {stage: round(value, 4) for stage, value in seconds.items()}
            how = {"worker": result.worker, "seconds": seconds, "published": round(time.time(), 3)}
            self._commit(commit | how | {"worker_ends": dispatcher.ends(result.unit_id)})
        else:
            self.lost_races += 1
            self._adopt(result.unit_id)
        bar.unit(commit)
        logger.info("%s: %d rows, %d bad", name, commit["rows"], commit["bad"])

    def _check(self, unit_id: int, source: bytes | Path) -> UnitCheck:
        return check_unit(source, self.plan.file_name(unit_id), self.plan.units[unit_id], self.run)

    def _commit(self, commit: dict) -> None:
        failpoint("before_commit", commit["unit"])
        self.store.replace_json(texts.commit_name(commit["unit"]), commit)
        failpoint("after_commit", commit["unit"])

    def _adopt(self, unit_id: int) -> None:
        """Accept a published unit: by its commit, or else after checking the whole file."""
        path = self.store.path(self.plan.file_name(unit_id))
        if self.store.exists(texts.commit_name(unit_id)):
            commit = self.store.read_json(texts.commit_name(unit_id))
            if commit.get("bytes") == path.stat().st_size:
                return
        self._commit(self._check(unit_id, path).commit())

    def unfinished(self) -> dict:
        """What there is so far: totals and units as in the manifest, by the commits."""
        names = [texts.commit_name(unit.unit_id) for unit in self.plan.units]
        commits = [self.store.read_json(name) for name in names if self.store.exists(name)]
        return self.run | {"totals": texts.totals(commits), "units": commits}

    def finish(self) -> dict:
        """Read every unit once more, then write card and manifest; the manifest comes last."""
        if self.store.exists(texts.MANIFEST):
            return self.store.read_json(texts.MANIFEST)
        sizes = texts.stored_sizes(self.run)
        counts = [np.zeros(size, np.int64) for size in sizes]
        commits = []
        for unit in self.plan.units:
            path = self.store.path(self.plan.file_name(unit.unit_id))
            check = self._check(unit.unit_id, path)
            commit = check.commit()
            if not self.store.exists(texts.commit_name(unit.unit_id)):
                self._commit(commit)  # of another task, which ended before it wrote it
            if self.store.read_json(texts.commit_name(unit.unit_id))["sha256"] != commit["sha256"]:
                raise FormatError(f"{commit['file']} changed after it was published.")
            counts = [a + b for a, b in zip(counts, check.counts, strict=True)]
            commits.append(commit)
        self.store.replace(texts.USAGE, texts.usage_table(counts))
        manifest = texts.new_manifest(self.run, commits, texts.usage_summary(counts))
        self.store.replace("README.md", texts.card(manifest, self.store.root.name).encode())
        self.store.replace_json(texts.POINTER, self.run["tokenizer"])
        failpoint("before_manifest")
        self.store.publish(texts.MANIFEST, to_json(manifest))
        return manifest
