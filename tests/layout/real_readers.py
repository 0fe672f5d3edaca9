"""Reads an export with the library whose format it is, and prints the ids as one line of JSON.

    python tests/layout/real_readers.py mds FOLDER [BLOCK_SIZE]

A program of its own, because the libraries start processes, set signal handlers, and may live in
another environment than the tests (mosaicml-streaming wants an older transformers and numpy):

    python -m venv readers
    readers/bin/pip install mosaicml-streaming litdata webdataset megatron-core
    VQTOK_READERS_PYTHON=readers/bin/python pytest tests/layout/test_export.py
"""

import json
import sys
import tempfile


def read_hf(folder):
    from datasets import load_dataset

    with tempfile.TemporaryDirectory() as cache:
        data = load_dataset(folder, split="train", cache_dir=cache)
        return data["input_ids"][:]


def read_mds(folder):
    from streaming import StreamingDataset

    data = StreamingDataset(local=f"{folder}/train", batch_size=1, validate_hash="sha1")
    return [data[index]["input_ids"].tolist() for index in range(len(data))]


def read_litdata(folder, block_size):
    from litdata import StreamingDataset, TokensLoader

    loader = TokensLoader(block_size=int(block_size))
    data = StreamingDataset(f"{folder}/train", item_loader=loader, shuffle=False)
    return [row.tolist() for row in data]


def read_webdataset(folder):
    import glob

    import webdataset

    shards = sorted(glob.glob(f"{folder}/train/*.tar"))
    data = webdataset.WebDataset(shards, shardshuffle=False).decode()
    return [row["ids.npy"].tolist() for row in data]


def read_megatron(folder):
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    data = IndexedDataset(f"{folder}/train")
    return [data[index].tolist() for index in range(len(data))]


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    rows = globals()[f"read_{name}"](*arguments)
    sys.stdout.write("\n" + json.dumps(rows) + "\n")
