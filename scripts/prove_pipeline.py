"""Proves that `vqtok tokenize` makes every row once, whatever dies; prints what was proved.

    bash scripts/prove_pipeline.sh [--shared ../shared/data] [--storms 20] [--json proofs.json]

`PROOFS` says which tests prove what. The tests run in their full form; then the real command, with
spawned workers and the bundled image tokenizer, is killed at random places of small runs
("storms"), and once at a worker and once at the driver of runs over real data. Every run that was
disturbed is verified, and must hold the rows of one that was not. Linux only: it reads /proc.
"""

import argparse
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from scripts.storms import (
    REPOSITORY,
    NotProved,
    Options,
    clean_run,
    storm,
    twice_killed,
)

RESUME, WORKERS = "tests/data/test_resume.py::test_", "tests/data/test_workers.py::test_"
RAY, LAYOUT = "tests/data/test_ray.py::", "tests/layout/test_export.py::test_"
VERIFY, CLI = "tests/data/test_verify.py::test_", "tests/cli/"
# what PIPELINE.md (4.12) asks for, and the tests that prove it
PROOFS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "a crash at each failpoint, with one worker and with two",
        (
            f"{RESUME}a_run_killed_at_any_point_resumes_to_the_same_rows",
            f"{RESUME}many_crashes_one_after_the_other_lose_and_repeat_nothing",
            f"{RESUME}a_resume_says_that_the_last_process_was_killed",
        ),
    ),
    (
        "storms of kill -9 on workers and drivers; inputs that end their workers",
        (
            f"{WORKERS}a_storm_of_kills_loses_and_repeats_nothing",
            f"{WORKERS}a_run_goes_on_when_all_its_workers_are_killed",
            f"{WORKERS}an_input_that_ends_its_workers_becomes_a_row",
        ),
    ),
    ("Ray: nodes killed one by one, and added; actors that end or stop", (f"{RAY}TestOnRay",)),
    (
        "a zombie: what it brings after others published it is thrown away",
        (
            f"{WORKERS}what_a_zombie_brings_after_others_published_it_is_thrown_away",
            f"{WORKERS}a_worker_that_was_stopped_is_replaced",
            f"{RAY}TestOnRay::test_an_actor_that_stops_is_replaced_and_wakes_up_in_vain",
        ),
    ),
    (
        "two drivers: the second is refused; tasks with overlapping shares",
        (
            f"{RESUME}a_second_driver_is_refused_and_told_who_is_the_first",
            f"{RESUME}the_first_publish_wins",
            f"{WORKERS}a_driver_that_was_stopped_keeps_others_out_and_goes_on",
            f"{WORKERS}tasks_with_overlapping_shares_publish_a_unit_once",
            f"{WORKERS}tasks_that_begin_at_once_agree_on_the_plan_of_one",
            f"{WORKERS}tasks_that_share_a_run_make_each_unit_once",
        ),
    ),
    (
        "one worker, two and three give the same rows",
        (
            f"{WORKERS}spawned_workers_give_the_rows_of_one",
            f"{WORKERS}rows_do_not_depend_on_the_number_of_workers",
        ),
    ),
    (
        "accounting: verify finds a row that is missing, twice, moved or changed",
        (
            f"{VERIFY}a_file_that_is_wrong_is_found_even_with_new_digests",
            f"{VERIFY}whatever_else_is_changed_is_named",
            f"{VERIFY}the_digest_of_rows_sees_a_single_code_and_not_the_size_of_units",
            "tests/data/test_run.py::test_every_image_of_a_folder_is_a_row_once_in_the_order_of_the_names",
            "tests/data/test_run.py::test_codes_out_of_range_stop_the_run",
        ),
    ),
    (
        "bad images, sounds and texts are a row each, and cost no other",
        (
            f"{CLI}test_poison.py::test_a_bad_input_is_a_row_that_says_why_and_costs_no_other",
            "tests/data/test_run.py::test_a_bad_input_changes_nothing_for_its_batch",
        ),
    ),
    (
        "refusals: a weight changed by one bit, an option, an input, a codebook, K too large",
        (
            f"{CLI}test_refusals.py::test_a_tokenizer_with_one_bit_or_option_changed_is_refused",
            f"{CLI}test_refusals.py::test_codes_are_not_decoded_with_a_codebook_of_one_bit_less_or_more",
            f"{RESUME}resume_refuses_another_option_and_names_it",
            f"{RESUME}resume_refuses_a_changed_source_and_names_the_file",
            f"{LAYOUT}the_largest_id_survives_or_the_format_refuses",
        ),
    ),
    (
        "padding: a batch of mixed sizes has the codes of each alone",
        (f"{CLI}test_company.py::test_a_batch_of_mixed_sizes_has_the_codes_of_each_alone",),
    ),
    ("a full disk", (f"{WORKERS}a_full_disk_ends_the_run_and_resumes",)),
    (
        "round trips of every exporter, by small readers and by the real libraries",
        (
            f"{LAYOUT}sequences_read_back_to_the_same_parts",
            f"{LAYOUT}packed_rows_of_three_modalities_read_back_to_the_same_codes",
            f"{LAYOUT}the_library_of_a_format_reads_the_same_ids",
            f"{LAYOUT}plain_codes_keep_their_shape",
        ),
    ),
)


@dataclass
class Step:
    """One line of the table: what was tried, whether it holds, and in which numbers."""

    name: str
    what: str
    proved: bool = False
    said: str = ""
    seconds: float = 0.0

    def line(self) -> str:
        word = "proved" if self.proved else "FAILED"
        return f"{word}  {self.seconds:7.1f} s  {self.name:10}  {self.what}: {self.said}"


def small_images(folder: Path, count: int = 60) -> Path:
    """Pieces of the sample photos, of several sizes, and three files that are no images."""
    from PIL import Image

    folder.mkdir()
    samples = sorted((REPOSITORY / "vqtok/samples").glob("*.jpg"))
    for index in range(count):
        with Image.open(samples[index % len(samples)]) as photo:
            side = (64, 96, 120)[index % 3]
            corner = 3 * index % 100
            photo.crop((corner, corner, corner + side, corner + 96)).save(
                folder / f"{index:03}.png"
            )
    for index in (5, 30, 59):
        (folder / f"{index:03}.png").write_bytes(b"no image" * index)
    return folder


def shared_sources(shared: Path, work: Path, limit: int | None) -> dict[str, Path]:
    """CIFAR-10 as it is, and the photos of a table as files beside the original ones."""
    import pyarrow.parquet as pq
    from PIL import Image

    cifar = shared / "cifar10/train.parquet"
    if limit:
        pq.write_table(pq.read_table(cifar).slice(0, limit), work / "cifar.parquet")
        cifar = work / "cifar.parquet"
    photos = work / "photos-in"
    photos.mkdir()
    table = pq.read_table(shared / "photos/train.parquet")["image"].to_pylist()
    originals = sorted((shared / "photos/original").iterdir())
    for index, image in enumerate(table[: limit and limit // 50]):
        with Image.open(io.BytesIO(image["bytes"])) as opened:
            name = f"{index:04}.{opened.format.lower()}"
        (photos / name).write_bytes(image["bytes"])
    for path in originals[: limit and limit // 50]:
        shutil.copy(path, photos / path.name)
    return {"cifar10": cifar, "photos": photos}


def run_tests(tests: Sequence[str], storms: int) -> str:
    """The tests of one proof; what pytest counted."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=REPOSITORY, capture_output=True, text=True,
        env=os.environ | {"VQTOK_STORMS": str(storms)},
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if " in " in line and "passed" in line]
    if done.returncode or not lines:
        raise NotProved((done.stdout + done.stderr)[-4000:])
    return lines[-1].strip("= ")


class Proofs:
    """Runs steps one after the other, and remembers what came of them."""

    def __init__(self):
        self.steps: list[Step] = []
        self.started = time.monotonic()

    def step(self, name: str, what: str, work: Callable[[], str]) -> None:
        step, started = Step(name, what), time.monotonic()
        try:
            step.said = work()
            step.proved = True
        except NotProved as error:
            step.said = str(error)
        step.seconds = round(time.monotonic() - started, 1)
        self.steps.append(step)
        print(step.line(), flush=True)

    def summary(self) -> dict:
        return {
            "proved": all(step.proved for step in self.steps),
            "seconds": round(time.monotonic() - self.started, 1),
            "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
            "python": platform.python_version(),
            "steps": [asdict(step) for step in self.steps],
        }


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = os.environ.get
    parser.add_argument(
        "--storms",
        type=int,
        default=int(known("VQTOK_STORMS", 20)),
        help="of kill -9, in the tests and again with the real command",
    )
    parser.add_argument(
        "--shared",
        type=Path,
        default=known("VQTOK_PROVE_SHARED"),
        help="a folder with cifar10/ and photos/: both go through whole",
    )
    parser.add_argument(
        "--data",
        nargs="*",
        type=Path,
        default=known("VQTOK_PROVE_DATA", "").split(),
        help="more folders or files of images to take through",
    )
    parser.add_argument("--workers", type=int, default=int(known("VQTOK_PROVE_WORKERS", 2)))
    parser.add_argument("--batch-size", type=int, help="of all runs of the real command")
    parser.add_argument(
        "--limit",
        type=int,
        help="only so many images of CIFAR-10, and a fiftieth of them from each kind of photos",
    )
    parser.add_argument(
        "--only",
        choices=["tests", "storms", "data"],
        nargs="+",
        default=["tests", "storms", "data"],
    )
    parser.add_argument(
        "--json", type=Path, default=known("VQTOK_PROVE_JSON"), help="also write the table here"
    )
    return parser.parse_args()  # fmt: skip


def prove(proofs: Proofs, asked: argparse.Namespace, work: Path) -> None:
    """Every step that was asked for."""
    options = Options(work, asked.workers, asked.batch_size)
    if "tests" in asked.only:
        for number, (what, tests) in enumerate(PROOFS, start=1):
            proofs.step(f"test {number}", what, partial(run_tests, tests, asked.storms))
    if "storms" in asked.only:
        source = small_images(work / "small")
        clean = clean_run(options.command(source, work / "calm", 4, workers=1), work / "calm")
        for seed in range(asked.storms):
            name = f"storm {seed + 1}"
            proofs.step(name, "blows", partial(storm, options, source, clean, seed))
            shutil.rmtree(work / f"storm-{seed}", ignore_errors=True)
    if "data" in asked.only:
        sources = {path.stem: path for path in map(Path, asked.data)}
        if asked.shared:
            sources |= shared_sources(Path(asked.shared), work, asked.limit)
        for name, source in sources.items():
            proofs.step(name, "killed twice", partial(twice_killed, options, name, source))


def main() -> int:
    asked, proofs = parsed(), Proofs()
    with tempfile.TemporaryDirectory(prefix="vqtok-proofs-") as work:
        prove(proofs, asked, Path(work))
    summary = proofs.summary()
    if asked.json:
        Path(asked.json).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print("\n== summary")
    for step in proofs.steps:
        print(step.line() if step.proved else step.line().splitlines()[0])
    done = sum(step.proved for step in proofs.steps)
    print(f"{done} of {len(proofs.steps)} proved in {summary['seconds']:.0f} s")
    return 0 if summary["proved"] else 1


if __name__ == "__main__":
    sys.exit(main())
