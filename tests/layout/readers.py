"""Minimal readers, written from the formats' descriptions and independent of the package.

Each gives the records of a split as lists of ids, or as arrays with their shape.
"""

import io
import itertools
import json
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def read_hf(folder: Path, split: str) -> list:
    tables = [pq.read_table(path) for path in sorted((folder / "data").glob(f"{split}-*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    return [np.reshape(r["codes"], r["shape"]) if "codes" in r else r["input_ids"] for r in rows]


def read_memmap(folder: Path, split: str) -> list:
    about = json.loads((folder / "memmap.json").read_text())
    ids = np.memmap(folder / f"{split}.bin", dtype=about["dtype"], mode="r")
    offsets = np.load(folder / f"{split}.offsets.npy")
    rows = [np.array(ids[a:b]) for a, b in itertools.pairwise(offsets)]
    shapes = folder / f"{split}.shapes.npy"
    if shapes.exists():
        return [row.reshape(s) for row, s in zip(rows, np.load(shapes), strict=True)]
    return [row.tolist() for row in rows]


def read_nanogpt(folder: Path, split: str) -> list:
    meta = pickle.loads((folder / "meta.pkl").read_bytes())
    ids = np.memmap(folder / f"{split}.bin", dtype=np.uint16, mode="r").tolist()
    assert max(ids) < meta["vocab_size"]
    return [ids]


def read_megatron(folder: Path, split: str) -> list:
    index = (folder / f"{split}.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, number = struct.unpack_from("<QB", index, 9)
    count, documents = struct.unpack_from("<QQ", index, 18)
    assert version == 1
    dtype = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}[number]
    lengths = np.frombuffer(index, "<i4", count, 34)
    pointers = np.frombuffer(index, "<i8", count, 34 + 4 * count)
    ends = np.frombuffer(index, "<i8", documents, 34 + 12 * count)
    assert len(index) == 34 + 12 * count + 8 * documents
    assert ends.tolist() == list(range(count + 1))
    data = (folder / f"{split}.bin").read_bytes()
    return [
        np.frombuffer(data, dtype, n, p).tolist() for n, p in zip(lengths, pointers, strict=True)
    ]


def read_webdataset(folder: Path, split: str) -> list:
    rows = []
    for path in sorted((folder / split).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith((".ids.npy", ".codes.npy")):
                    array = np.load(io.BytesIO(tar.extractfile(member).read()))
                    rows.append(array.tolist() if ".ids." in member.name else array)
    return rows


def read_mds(folder: Path, split: str) -> list:
    index = json.loads((folder / split / "index.json").read_text())
    rows = []
    for shard in index["shards"]:
        data = (folder / split / shard["raw_data"]["basename"]).read_bytes()
        assert len(data) == shard["raw_data"]["bytes"]
        count = int(np.frombuffer(data, "<u4", 1)[0])
        offsets = np.frombuffer(data, "<u4", count + 1, 4)
        for start, end in itertools.pairwise(offsets):
            rows.append(_mds_sample(data[start:end], shard))
    return rows


def _mds_sample(data: bytes, shard: dict):
    names = shard["column_names"]
    sizes = np.frombuffer(data, "<u4", len(names))
    at, values = 4 * len(names), {}
    for name, kind, size in zip(names, shard["column_encodings"], sizes, strict=True):
        values[name] = (kind, data[at : at + size])
        at += size
    kind, raw = values["codes" if "codes" in values else "input_ids"]
    axes, width = raw[0] >> 2, 1 << (raw[0] & 3)
    shape = np.frombuffer(raw, f"<u{width}", axes, 1)
    array = np.frombuffer(raw, kind.split(":")[1], offset=1 + axes * width).reshape(shape)
    return array if "codes" in values else array.tolist()


def read_litdata(folder: Path, split: str) -> list:
    index = json.loads((folder / split / "index.json").read_text())
    (kind,) = index["config"]["data_format"]
    dtype = {4: "u1", 5: "<u2", 6: "<u4"}[int(kind.removeprefix("no_header_numpy:"))]
    rows = []
    for chunk in index["chunks"]:
        data = (folder / split / chunk["filename"]).read_bytes()
        count = int(np.frombuffer(data, "<u4", 1)[0])
        offsets = np.frombuffer(data, "<u4", count + 1, 4)
        pieces = itertools.pairwise(offsets)
        rows += [np.frombuffer(data[a:b], dtype).tolist() for a, b in pieces]
        assert sum(map(len, rows)) >= chunk["dim"]
    return rows


READERS = {
    "hf": read_hf,
    "memmap": read_memmap,
    "nanogpt": read_nanogpt,
    "megatron": read_megatron,
    "webdataset": read_webdataset,
    "mds": read_mds,
    "litdata": read_litdata,
}
