"""Trains a small Llama on the codes of photos, samples from it, and decodes the samples.

    python scripts/train_prior.py PHOTOS --out runs/prior [--size 128 --steps 2000]

A photo is a centre square of `--size` pixels; its codes stand in a sequence
<bos>{height}{width}<boi>{image}<eoi><eos>, and nothing else: the prior is not conditioned on a
class. With its defaults training takes about an hour on two cores; `--minutes 10` ends it after ten
minutes. The logits processor lets only legal ids through, so every sample is a picture, if not a
good one: at this size the prior learns colours and textures. Writes the prior with its
vqtok_layout.json, samples.png (photos above, samples below), and report.json.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from vqtok import AutoVQTokenizer
from vqtok.data import open_source
from vqtok.data.sources import Segment
from vqtok.devices import pick_device
from vqtok.errors import InputError, VqtokError
from vqtok.layout import Layout, SequenceLayout, Stream, VocabLayout, attention_mask, pack
from vqtok.models.images import read_image

TEMPLATE = "<bos>{height}{width}<boi>{image}<eoi><eos>"
SPECIALS = ("bos", "eos", "pad", "boi", "eoi")
HELD_OUT = 10  # every tenth photo is not trained on


def main() -> None:
    options = parse()
    torch.manual_seed(options.seed)
    device = pick_device(options.device)
    tok = AutoVQTokenizer.from_pretrained(options.tokenizer, device=str(device))
    photos = list(squares(options.photos, options.size, options.limit))
    if not photos:
        raise InputError(f"{options.photos} has no photo that can be read.", status="empty")
    tokens = tok.tokenize(photos, batch_size=8)

    grid = max(tuple(item.codes.shape[1:]) for item in tokens)
    vocab = VocabLayout.build(
        [Stream.from_tokenizer("image", tok)],
        specials=SPECIALS,
        sizes={"height": grid[0], "width": grid[1]},
        pad_to=64,
    )
    layout = SequenceLayout(vocab, TEMPLATE)
    sequences = [layout.encode({"image": item}) for item in tokens]
    block = max(len(sequence.ids) for sequence in sequences)
    rows = list(pack(sequences, "none", block, vocab.special("pad")))
    held_out, trained = rows[::HELD_OUT], [r for i, r in enumerate(rows) if i % HELD_OUT]

    prior = build_prior(vocab, options, block).to(device)
    losses = train(prior, trained or rows, options)
    out = sample(prior, layout, options, block)
    pictures = decode(tok, layout, out)

    options.out.mkdir(parents=True, exist_ok=True)
    prior.save_pretrained(options.out)
    Layout(vocab, {"image": layout}).save(options.out)
    sheet(photos[: len(pictures)], pictures).save(options.out / "samples.png")
    report = {
        "photos": len(photos),
        "ids": sum(sequence.ids.size for sequence in sequences),
        "parameters": prior.num_parameters(),
        "first_loss": losses[0],
        "last_loss": sum(losses[-20:]) / len(losses[-20:]),
        "held_out_bits_per_id": evaluate(prior, held_out, options) / math.log(2),
        "uniform_bits_per_code": tok.code_bits[0],
        "samples": len(pictures),
    }
    (options.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="The default takes about an hour on two cores; --minutes ends training earlier.",
    )
    parser.add_argument("photos", help="what `vqtok tokenize` takes: a folder, parquet, ...")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", default="vqtok/vim-vq-tiny")
    parser.add_argument("--size", type=int, default=128, help="side of the squares, in pixels")
    parser.add_argument("--limit", type=int, help="photos to read; default: all")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop training then")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--top-k", type=int, default=1000, help="codes to sample from")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in ("size", "limit", "steps", "minutes", "batch_size", "layers", "samples", "top_k"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            parser.error(f"--{name.replace('_', '-')} wants a number above 0; got {value}")
    return options


def squares(source: str, size: int, limit: int | None):
    """Centre squares of the photos that can be read, resized."""
    opened, found = open_source(source), 0
    for shard in opened.list():
        whole = Segment(shard.uri, shard.size, shard.etag, row_start=0, row_count=shard.rows)
        for raw in opened.read_segment(whole):
            if found == limit:
                return
            try:
                image = Image.fromarray(read_image(raw.data))
            except InputError:
                continue
            side = min(image.size)
            left, top = ((n - side) // 2 for n in image.size)
            square = image.crop((left, top, left + side, top + side))
            found += 1
            yield square.resize((size, size), Image.Resampling.BICUBIC)


def build_prior(vocab: VocabLayout, options: argparse.Namespace, block: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=options.width,
        intermediate_size=options.width * 8 // 3 // 8 * 8,
        num_hidden_layers=options.layers,
        num_attention_heads=max(1, options.width // 64),
        max_position_embeddings=block,
        tie_word_embeddings=True,
        **vocab.config(),
    )
    return LlamaForCausalLM(config)


def loss_of(prior: LlamaForCausalLM, rows: list) -> Tensor:
    device = prior.device
    ids, labels, documents, positions = (
        torch.stack([torch.as_tensor(getattr(row, name).astype("int64")) for row in rows])
        for name in ("ids", "labels", "document_ids", "position_ids")
    )
    mask = attention_mask(documents).to(device)
    ids, labels, positions = ids.to(device), labels.to(device), positions.to(device)
    return prior(ids, attention_mask=mask, position_ids=positions, labels=labels).loss


def train(prior: LlamaForCausalLM, rows: list, options: argparse.Namespace) -> list[float]:
    """AdamW with a warm-up and a cosine; the loss of every step, nats per id."""
    optimizer = torch.optim.AdamW(prior.parameters(), lr=options.lr, weight_decay=0.1)
    losses, start = [], time.monotonic()
    prior.train()
    for step in range(options.steps):
        done = max(step / options.steps, (time.monotonic() - start) / 60 / options.minutes)
        if done >= 1 and losses:
            break
        rate = options.lr * min((step + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.randint(len(rows), (options.batch_size,)).tolist()
        loss = loss_of(prior, [rows[index] for index in chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"step {step}: {losses[-1]:.3f} nats per id", flush=True)
    return losses


@torch.no_grad()
def evaluate(prior: LlamaForCausalLM, rows: list, options: argparse.Namespace) -> float:
    """Mean nats per id over rows that were not trained on."""
    prior.eval()
    size = options.batch_size
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    return sum(loss_of(prior, batch).item() * len(batch) for batch in batches) / len(rows)


@torch.no_grad()
def sample(
    prior: LlamaForCausalLM, layout: SequenceLayout, options: argparse.Namespace, block: int
) -> Tensor:
    """Ids of new pictures, [samples, S]."""
    prior.eval()
    start = torch.full((options.samples, 1), layout.vocab.special("bos"), device=prior.device)
    return prior.generate(
        start,
        attention_mask=torch.ones_like(start),
        do_sample=True,
        top_k=options.top_k,
        max_length=block,
        logits_processor=[layout.logits_processor(max_length=block)],
    )


def decode(tok: AutoVQTokenizer, layout: SequenceLayout, ids: Tensor) -> list[Image.Image]:
    return tok.detokenize([layout.decode(row)["image"] for row in ids])


def sheet(photos: list[Image.Image], pictures: list[Image.Image]) -> Image.Image:
    side = photos[0].width
    paper = Image.new("RGB", (len(pictures) * (side + 4), 2 * side + 4), "white")
    for row, images in enumerate((photos, pictures)):
        for column, image in enumerate(images):
            paper.paste(image, (column * (side + 4), row * (side + 4)))
    return paper


if __name__ == "__main__":
    try:
        main()
    except VqtokError as error:
        raise SystemExit(f"error: {error}") from error
