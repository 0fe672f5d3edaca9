"""Which unit is made next, and what follows when a worker ends on one; the same for all executors.

A unit whose worker ended is given out again. After the second time its rows are handed over one by
one, so that the next end names a row; a row that ends two workers more becomes a row of status
"crash", and the rest of the unit goes on. Innocent rows survive a machine that dies at random.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from vqtok.data.plan import Unit
from vqtok.data.worker import Task
from vqtok.errors import VqtokError

logger = logging.getLogger(__name__)

ENDS_TO_LOOK = 2  # ends of a unit before its rows are looked at one by one
ENDS_OF_A_ROW = 2  # ends while one row was being worked on before it is given up
FALSE_STARTS = 3  # workers in a row that ended before they were ready
MOST_POISON = 8  # rows of one unit that may end workers before that looks systemic


class Dispatcher:
    """Hands out tasks and takes them back.

    Args:
        units: to be made, in the order in which they are given out.
        on_rows: called with the rows done since the last call; less than 0 when work was lost.
        is_done: whether somebody else has made a unit meanwhile, asked before it is given out.
    """

    def __init__(
        self,
        units: Iterable[Unit],
        on_rows: Callable[[int], None] = lambda rows: None,
        is_done: Callable[[Unit], bool] = lambda unit: False,
    ):
        self.is_done = is_done
        self.waiting: deque[Task] = deque(Task(unit) for unit in units)
        self.running: dict[int, Task] = {}
        self.on_rows = on_rows
        self._at: Counter[int] = Counter()  # rows begun, by unit
        self._ends: Counter[int] = Counter()
        self._counted: Counter[int] = Counter()  # those that say something of its rows
        self._row_ends: Counter[tuple[int, int]] = Counter()
        self._false_starts = 0

    @property
    def unfinished(self) -> int:
        return len(self.waiting) + len(self.running)

    def next(self) -> Task | None:
        """A task to work on now; None if all that is left is being worked on."""
        while self.waiting:
            task = self.waiting.popleft()
            if self.is_done(task.unit):
                self.on_rows(task.unit.rows)
                continue
            self.running[task.unit.unit_id] = task
            return task
        return None

    def at(self, unit_id: int, row: int) -> None:
        """A worker is about to begin `row` of a unit: a sign of life, and progress."""
        if unit_id in self.running:
            self.on_rows(row - self._at[unit_id])
            self._at[unit_id] = row

    def ends(self, unit_id: int) -> int:
        """How many workers have ended on a unit."""
        return self._ends[unit_id]

    def ready(self) -> None:
        self._false_starts = 0

    def false_start(self, reason: str) -> None:
        """A worker ended before it was ready; raises VqtokError when that goes on."""
        self._false_starts += 1
        logger.warning("a worker ended before it was ready: %s", reason)
        if self._false_starts >= FALSE_STARTS:
            raise VqtokError(
                f"{self._false_starts} workers, one after the other, ended before they were ready; "
                f"the last one: {reason}. Is there memory for one tokenizer a worker?"
            )

    def finished(self, unit_id: int) -> bool:
        """A unit was made; False if it had been made before."""
        if unit_id not in self.running:
            return False
        self.at(unit_id, self.running[unit_id].unit.rows)
        del self.running[unit_id]
        return True

    def ended(self, unit_id: int, reason: str, counts: bool = True) -> None:
        """The worker of a unit ended; its work is lost and is given out again, first of all.

        Args:
            unit_id: of the unit.
            reason: how the worker ended.
            counts: whether that says anything of the unit's rows.
        """
        task = self.running.pop(unit_id)
        row = self._at.pop(unit_id, 0)
        self.on_rows(-row)
        self._ends[unit_id] += 1
        self._counted[unit_id] += counts
        logger.warning("a worker ended at row %d of unit %d: %s", row, unit_id, reason)
        if counts and task.one_by_one:
            task = self._blame(task, row, reason)
        elif self._counted[unit_id] >= ENDS_TO_LOOK:
            task = replace(task, one_by_one=True)
        self.waiting.appendleft(task)

    def _blame(self, task: Task, row: int, reason: str) -> Task:
        place = (task.unit.unit_id, row)
        self._row_ends[place] += 1
        if self._row_ends[place] < ENDS_OF_A_ROW or row >= task.unit.rows:
            return task
        if len(task.poison) >= MOST_POISON:
            raise VqtokError(
                f"{len(task.poison) + 1} rows of unit {task.unit.unit_id} ended their workers, so "
                f"the inputs are not to blame; the last time: {reason}."
            )
        logger.warning("row %d of unit %d is given up: %s", row, task.unit.unit_id, reason)
        text = f"this input ended {ENDS_OF_A_ROW} workers: {reason}"
        return replace(task, poison=task.poison | {row: text})
