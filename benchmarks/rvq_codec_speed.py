"""The RVQ codec at 24 kHz beside transformers' EnCodec of equal size, paired; and its memory.

    python benchmarks/rvq_codec_speed.py speed                # x real time, one and two threads
    python benchmarks/rvq_codec_speed.py memory --hours 2     # peak memory of tokenizing a file

Every round times both, one after the other, so that a machine that slows down slows both of them;
the figures are medians over the rounds, and of ratios within a round. Weights are random: speed
does not depend on them. EnCodec has 22 filters instead of 32, its encoder then has 3.61 M
parameters, ours 3.58 M; both are mono, 75 frames a second, 8 codebooks of 1,024.

- encoder: samples to latents. encode: samples to codes. decode: codes to samples.
- tokenize: a waveform to `VQTokens`, with all that is checked on the way; detokenize: and back.
  EnCodec stands for itself here: `encode` and `decode`.

`memory` writes a file of noise in pieces, tokenizes it in a process of its own and reports that
process's peak resident set (Linux counts it in KiB); `--back` detokenizes it as well.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn
from transformers import EncodecConfig, EncodecModel

from vqtok.models.rvq_codec.configuration_rvq_codec import RVQCodecConfig
from vqtok.models.rvq_codec.modeling_rvq_codec import RVQCodecModel

RATE = 24_000
FILTERS = 22  # of EnCodec, for an encoder of the size of ours
KBITS = 6.0

Pair = tuple[Callable[[], object], Callable[[], object]]  # ours, theirs


@torch.no_grad()
def codec(small: bool = False) -> RVQCodecModel:
    torch.manual_seed(0)
    config = {"widths": [16, 32], "latent_dim": 16} if small else {}
    model = RVQCodecModel(RVQCodecConfig.preset("24khz", **config)).eval()
    # fresh codebooks lie anywhere; these lie where latents do
    model.quantizer.initialize(model.encoder(torch.randn(1, 1, 5 * RATE) * 0.1))
    return model


def encodec(small: bool = False) -> EncodecModel:
    return EncodecModel(EncodecConfig(num_filters=4 if small else FILTERS)).eval()


def tasks(ours: RVQCodecModel, theirs: EncodecModel, seconds: float) -> dict[str, Pair]:
    samples = torch.randn(1, 1, round(seconds * RATE)) * 0.1
    codes = ours.encode(samples)
    sound, tokens = [(samples[0], RATE)], ours.tokenize([(samples[0], RATE)])

    def encode():
        return theirs.encode(samples, bandwidth=KBITS)

    coded = encode()

    def decode():
        return theirs.decode(coded.audio_codes, coded.audio_scales)

    return {
        "encoder": (lambda: ours.encoder(samples), lambda: theirs.encoder(samples)),
        "encode": (lambda: ours.encode(samples), encode),
        "decode": (lambda: ours.decode(codes), decode),
        "tokenize": (lambda: ours.tokenize(sound), encode),
        "detokenize": (lambda: ours.detokenize(tokens), decode),
    }


def elapsed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(pair: Pair, seconds: float, rounds: int) -> dict[str, float]:
    """Medians over the rounds: times real time of both, and the ratio of their times."""
    for call in pair:
        call()
    times = [[elapsed(call) for call in pair] for _ in range(rounds)]
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    return {"ours_x": seconds / ours, "encodec_x": seconds / theirs, "ours_over_encodec": ratio}


@torch.no_grad()
def speed(options: argparse.Namespace) -> list[dict]:
    ours, theirs = codec(options.small), encodec(options.small)
    sizes = [parameters(part) / 1e6 for part in (ours.encoder, theirs.encoder)]
    print(
        f"encoders of {sizes[0]:.2f} M (ours) and {sizes[1]:.2f} M parameters (EnCodec);", end=" "
    )
    print(f"{options.seconds:g} s of sound, times real time, {options.rounds} rounds")
    print(f"{'task':10} {'threads':>7} {'ours':>8} {'EnCodec':>8}  ours/EnCodec (time)")
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for task, pair in tasks(ours, theirs, options.seconds).items():
            row = measure(pair, options.seconds, options.rounds)
            rows.append({"task": task, "threads": threads} | row)
            figures = f"{row['ours_x']:8.1f} {row['encodec_x']:8.1f}"
            print(f"{task:10} {threads:7} {figures}  {row['ours_over_encodec']:8.2f}", flush=True)
    return rows


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def memory(options: argparse.Namespace) -> list[dict]:
    seconds = round(options.hours * 3600)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "long.wav")
        write_noise(path, seconds)
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            row = alone.submit(peak, path, options.small, options.back).result()
    row = {"hours": options.hours, "file_mb": seconds * RATE * 2 / 1e6} | row
    print(
        f"{options.hours:g} h at 24 kHz, {row['file_mb']:.0f} MB: peak {row['peak_mb']:.0f} MB, of "
        f"which {row['before_mb']:.0f} MB before; {seconds / row['seconds']:.0f} x real time"
    )
    return [row]


def write_noise(path: Path, seconds: int) -> None:
    """Mono, 16 bits, a minute at a time."""
    draw = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for start in range(0, seconds, 60):
            file.write(draw.standard_normal(min(60, seconds - start) * RATE) * 0.1)


def peak(path: Path, small: bool, back: bool) -> dict[str, float]:
    """In a fresh process: tokenizes a file and says what that took."""
    torch.set_num_threads(1)
    model, before = codec(small), peak_mb()
    start = time.perf_counter()
    tokens = model.tokenize([path])
    if back:
        model.detokenize(tokens)
    return {"before_mb": before, "peak_mb": peak_mb(), "seconds": time.perf_counter() - start}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "memory"))
    parser.add_argument("--seconds", type=float, default=10, help="of sound in a call")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--hours", type=float, default=2, help="of the file, for memory")
    parser.add_argument("--back", action="store_true", help="memory: decode it again, too")
    parser.add_argument("--small", action="store_true", help="tiny networks: a test of the script")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    rows = {"speed": speed, "memory": memory}[options.what](options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
