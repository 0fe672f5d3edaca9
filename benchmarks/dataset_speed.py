"""How fast and how small `vqtok tokenize` is: beside a bare loop, one worker, and datasets.map.

    python benchmarks/dataset_speed.py CIFAR.parquet [--rows 10000] [--batch-size 16]

All with the bundled image tokenizer, one after the other on the same machine; read the ratios. The
bare loop encodes batches that lie ready in memory, with all cores and nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

TOKENIZER = "vqtok/vim-vq-tiny"
COMMAND = [sys.executable, "-c", "from vqtok.cli import app; app()", "tokenize"]


def bare_loop(images: list[bytes], batch_size: int) -> float:
    """Images per second of encoding prepared batches; in a process of its own, see `main`."""
    import torch

    from vqtok import AutoVQTokenizer

    tok = AutoVQTokenizer.from_pretrained(TOKENIZER)
    inputs = torch.stack([tok.processor.read(image)[0] for image in images]).split(batch_size)
    with tok.inference():
        tok.encode(inputs[0])
        started = time.perf_counter()
        for batch in inputs:
            tok.encode(batch)
    return len(images) / (time.perf_counter() - started)


def datasets_map(path: Path, batch_size: int, out: Path) -> float:
    """Seconds of `datasets.map(batched=True, num_proc=2)` doing the same, and writing parquet."""
    import datasets
    import torch

    from vqtok import AutoVQTokenizer

    tokenizers = []

    def tokenize(rows):
        if not tokenizers:
            torch.set_num_threads(1)
            tokenizers.append(AutoVQTokenizer.from_pretrained(TOKENIZER))
        tokens = tokenizers[0].tokenize([i["bytes"] for i in rows["image"]], batch_size)
        return {"codes": [t.codes.flatten().tolist() for t in tokens]}

    source = datasets.load_dataset("parquet", data_files=str(path), split="train")
    source = source.cast_column("image", datasets.Image(decode=False))
    mapped = source.map(
        tokenize, batched=True, batch_size=64, num_proc=2, remove_columns=source.column_names
    )
    mapped.to_parquet(out)


class Peak(threading.Thread):
    """Memory of a process and its children, while it runs: the most of the sum, in MB."""

    def __init__(self, process: subprocess.Popen):
        super().__init__(daemon=True)
        self.process, self.most = psutil.Process(process.pid), 0.0

    def run(self) -> None:
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            try:
                family = [self.process, *self.process.children(recursive=True)]
                held = sum(member.memory_full_info().pss for member in family)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            self.most = max(self.most, held / 1e6)
            time.sleep(0.25)


def command(path: Path, out: Path, *options: str, threads: int | None = None) -> dict:
    """One run of the command line: seconds in all, memory, and its own report."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    arguments = [*COMMAND, str(path), "-t", TOKENIZER, "-o", str(out), "--json", *options]
    started = time.perf_counter()
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    peak = Peak(process)
    peak.start()
    answer, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the command ended with {process.returncode}: {answer.decode()}")
    report = json.loads(answer)
    return {"seconds": time.perf_counter() - started, "peak_mb": peak.most, "report": report}


def timed(name: str, *arguments: str) -> float:
    """Seconds, or a rate that the call prints, of this script's own `name` in a new process."""
    started = time.perf_counter()
    run = subprocess.run(
        [sys.executable, __file__, "--only", name, *arguments],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    return float(run.stdout.split()[-1]) if name == "bare" else seconds


def repeated(table: pa.Table, rows: int, path: Path) -> Path:
    """The first so many rows, from the start again where there are not so many."""
    times = -(-rows // table.num_rows)
    pq.write_table(pa.concat_tables([table] * times).slice(0, rows), path, row_group_size=1000)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="See the top of this file.")
    parser.add_argument("source", type=Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--memory-rows", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--only", choices=("bare", "map"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    table = pq.read_table(asked.source, columns=["image"], use_threads=False)
    if asked.only == "bare":
        images = [image["bytes"] for image in table["image"].to_pylist()]
        print(bare_loop(images, asked.batch_size))
    elif asked.only == "map":
        datasets_map(asked.source, asked.batch_size, asked.out)
    else:
        with tempfile.TemporaryDirectory() as folder:
            compare(table, asked, Path(folder))


def compare(table: pa.Table, asked: argparse.Namespace, folder: Path) -> None:
    batch = ["--batch-size", str(asked.batch_size)]
    rows = asked.rows
    path = repeated(table, rows, folder / "images.parquet")
    one = repeated(table, 1, folder / "one.parquet")
    first = command(one, folder / "first")
    print(f"start to the end of a run of one image: {first['seconds']:.1f} s")

    bare = timed("bare", str(path), *batch)
    runs = {
        "command": command(path, folder / "default", *batch),
        "one worker": command(path, folder / "w1", *batch, "--workers", "1", threads=1),
        "two workers": command(path, folder / "w2", *batch, "--workers", "2", threads=1),
        "command, automatic batches": command(path, folder / "auto"),
    }
    mapped = timed("map", str(path), *batch, "--out", str(folder / "map.parquet"))
    print(f"bare loop, batches of {asked.batch_size}: {bare:,.0f} images/s")
    for name, run in runs.items():
        rate = rows / run["seconds"]
        print(f"{name}: {rate:,.0f} images/s with start and finish, {rate / bare:.2f} of the loop")
    alone, both = (runs[name]["report"]["seconds"] for name in ("one worker", "two workers"))
    print(f"two workers over one, a thread each, without start: {alone / both:.2f}")
    print(f"datasets.map over the command, seconds: {mapped / runs['command']['seconds']:.2f}")
    report = runs["command"]["report"]
    print(f"bytes per token: {report['bytes'] / report['tokens']:.3f}")
    for count in asked.memory_rows:
        big = repeated(table, count, folder / "many.parquet")
        run = command(big, folder / f"memory-{count}", *batch)
        print(f"memory, {count:,} rows: {run['peak_mb']:,.0f} MB in all processes")


if __name__ == "__main__":
    main()
