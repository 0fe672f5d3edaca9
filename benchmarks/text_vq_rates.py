"""The text tokenizer beside BPE, gzip and xz: bits per byte, right bytes, and speed.

    python benchmarks/text_vq_rates.py runs/text_data/train runs/text_data/held_out

BPE (Hugging Face tokenizers, byte level) is trained here on the same text, at two sizes of
vocabulary; its price is log2(V) a token, as that of our codes is log2(K) a code, with no entropy
coder for either. gzip -9 and xz -9 see a whole file. Speed is of tokenize and detokenize together,
in processor time of the process as well as on the clock, best of --rounds.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from vqtok import AutoVQTokenizer
from vqtok.metrics.classical_text import compressed_bytes
from vqtok.metrics.text import byte_accuracy, vocabulary_bits_per_byte
from vqtok.models.base import VQTokenizerModel

MB = 1e6


def train_bpe(folder: Path, vocab_size: int) -> Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train([str(path) for path in sorted(folder.glob("*.txt"))], trainer)
    return bpe


def measure(tok: VQTokenizerModel, text: str, rounds: int) -> dict[str, float]:
    """Numbers of one text."""
    data = np.frombuffer(text.encode(), np.uint8)
    values = torch.from_numpy(data.astype(np.int64))[None]
    clock, cpu = [], []
    for _ in range(rounds):
        begun = time.perf_counter(), time.process_time()
        tokens = tok.tokenize([text])
        back = tok.detokenize(tokens)
        clock.append(time.perf_counter() - begun[0])
        cpu.append(time.process_time() - begun[1])
    decoded = tok.decode(tokens[0].codes[None])[:, : data.size]
    return {
        "bytes": data.size,
        "exact": back == [text],
        "byte_accuracy": byte_accuracy(decoded, values).item(),
        "bits_per_byte": tok.rate.bits,
        "bits_per_byte_with_escapes": tok.bits_of(tokens[0]) / data.size,
        "gzip": 8 * compressed_bytes(data.tobytes(), "gzip") / data.size,
        "xz": 8 * compressed_bytes(data.tobytes(), "xz") / data.size,
        "mb_per_s": data.size / MB / min(clock),
        "mb_per_cpu_s": data.size / MB / min(cpu),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path, help="the folder that BPE learns from")
    parser.add_argument("held_out", type=Path, help="a folder of .txt files to measure")
    parser.add_argument("--tokenizer", default="vqtok/text-vq-tiny")
    parser.add_argument("--vocab", type=int, nargs="*", default=[4096, 32_768])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tok = AutoVQTokenizer.from_pretrained(options.tokenizer, device="cpu")
    peers = {f"bpe_{size}": train_bpe(options.train, size) for size in options.vocab}
    rows = []
    for path in sorted(options.held_out.glob("*.txt")):
        text = path.read_bytes().decode()
        row = {"text": path.stem} | measure(tok, text, options.rounds)
        for name, bpe in peers.items():
            count = len(bpe.encode(text).ids)
            row[name] = vocabulary_bits_per_byte(count, bpe.get_vocab_size(), row["bytes"])
        rows.append(row)
        shown = {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}
        print("  ".join(f"{name} {value}" for name, value in shown.items()))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
