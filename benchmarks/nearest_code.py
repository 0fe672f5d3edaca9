"""Nearest-code search on CPU: our op beside its parts, vector-quantize-pytorch and a plain matmul.

    python benchmarks/nearest_code.py [--rows 16384] [--codes 4096] [--threads 2]

GFLOP/s are 2 N K D over time; medians over rounds in which all take turns. `op` is what
`vqtok.ops.nearest_code` does here (faiss where installed and narrow, tiles otherwise), `tiles` the
same without faiss, `reference` the op's own body, `peer` vector-quantize-pytorch in eval mode.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from vqtok.ops import nearest_code, nearest_cpu
from vqtok.ops.nearest import nearest_code_reference

WIDTHS = (8, 16, 32, 64, 256)


def searches(codebook: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Searches by name; each takes latents [N, D]."""
    size, width = codebook.shape
    peer = VectorQuantize(dim=width, codebook_size=size).eval()
    peer.codebook = codebook
    return {
        "op": lambda latents: nearest_code(latents, codebook),
        "tiles": lambda latents: nearest_cpu.nearest_in_tiles(latents, codebook),
        "reference": lambda latents: nearest_code_reference(latents, codebook),
        "peer": lambda latents: peer(latents[None])[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--codes", type=int, default=4_096)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"N {options.rows}, K {options.codes}, {torch.get_num_threads()} threads, GFLOP/s")
    for width in options.widths:
        latents = torch.randn(options.rows, width)
        contenders = searches(torch.randn(options.codes, width))
        times: dict[str, list[float]] = {name: [] for name in contenders}
        with torch.inference_mode():
            for round_number in range(options.rounds + 1):
                for name, search in contenders.items():
                    start = time.perf_counter()
                    search(latents)
                    if round_number:  # the first warms up
                        times[name].append(time.perf_counter() - start)
        work = 2 * options.rows * options.codes * width / 1e9
        speeds = (f"{name} {work / statistics.median(t):6.1f}" for name, t in times.items())
        print(f"D {width:4}  " + "  ".join(speeds))


if __name__ == "__main__":
    main()
