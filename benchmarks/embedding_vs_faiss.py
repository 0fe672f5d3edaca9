"""Embedding codes beside faiss's ResidualQuantizer and ProductQuantizer at equal bits, paired.

    python benchmarks/embedding_vs_faiss.py                        # 100,000 x 768, 8 bytes a vector
    python benchmarks/embedding_vs_faiss.py --rows 5000 --width 64     # a minute, for CI

Both learn from the same vectors and encode the same vectors. Error is the mean squared distance to
the reconstruction, over the variance of the vectors. Every round times faiss and vqtok one after
the other, so that a machine that slows down slows both; the ratio is the median over the rounds.

- noise: independent normal numbers, the hardest case: nothing to find.
- clusters: unit vectors in overlapping clusters of low dimension, as embeddings are.
- a .npy file [N, D] of your own.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vqtok.metrics.vectors import relative_error
from vqtok.models.embedding_vq import EmbeddingVQConfig, EmbeddingVQModel

PEERS = {"residual": faiss.ResidualQuantizer, "product": faiss.ProductQuantizer}
CODE_BITS = 8


def vectors_of(data: str, rows: int, width: int) -> Tensor:
    torch.manual_seed(0)
    if data == "noise":
        return torch.randn(rows, width)
    if data == "clusters":
        basis = torch.randn(64, width) / 8
        places = torch.randn(200, 64)[torch.randint(200, (rows,))] * 1.5 + torch.randn(rows, 64)
        return F.normalize(places @ basis + 0.1 * torch.randn(rows, width), dim=-1)
    return torch.from_numpy(np.load(data)[:rows].astype(np.float32))


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(kind: str, vectors: Tensor, codebooks: int, rounds: int) -> dict[str, float]:
    """Errors, seconds of fitting, and seconds of encoding of both, with their ratios."""
    rows, width = vectors.shape
    array = vectors.numpy()
    peer = PEERS[kind](width, codebooks, CODE_BITS)
    quantizer = {"kind": kind, "codebook_size": 2**CODE_BITS, "num_codebooks": codebooks}
    tok = EmbeddingVQModel(EmbeddingVQConfig(embedding_dim=width, quantizer_config=quantizer))
    tok.eval()

    faiss_fit, our_fit = seconds(lambda: peer.train(array)), seconds(lambda: tok.fit(vectors))
    theirs = torch.from_numpy(peer.decode(peer.compute_codes(array)))
    with tok.inference():
        ours = tok.decode(tok.encode(vectors))
        pairs = [
            (seconds(lambda: peer.compute_codes(array)), seconds(lambda: tok.encode(vectors)))
            for _ in range(rounds)
        ]
    row = {"rows": rows, "width": width, "bits": codebooks * CODE_BITS}
    row |= {"faiss_error": relative_error(vectors, theirs)}
    row |= {"our_error": relative_error(vectors, ours)}
    row |= {"error_ratio": row["our_error"] / row["faiss_error"]}
    row |= {"faiss_fit_s": faiss_fit, "our_fit_s": our_fit}
    row |= {"faiss_encode_s": statistics.median(pair[0] for pair in pairs)}
    row |= {"our_encode_s": statistics.median(pair[1] for pair in pairs)}
    return row | {"encode_ratio": statistics.median(ours / faiss for faiss, ours in pairs)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="clusters", help="noise, clusters or a .npy file")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768, help="of noise and clusters")
    parser.add_argument("--codebooks", type=int, default=8, help="bytes a vector")
    parser.add_argument("--kinds", nargs="+", choices=sorted(PEERS), default=sorted(PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: torch's own choice, for both")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(torch.get_num_threads())

    vectors = vectors_of(options.data, options.rows, options.width)
    print(f"{options.data} {list(vectors.shape)}, {torch.get_num_threads()} threads")
    results = []
    for kind in options.kinds:
        row = compare(kind, vectors, options.codebooks, options.rounds)
        results.append({"kind": kind, "data": options.data} | row)
        for name, value in row.items():
            print(f"{kind:9} {name:15} {value:.5g}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
