"""A small text tokenizer, started on a page of text, and the text."""

import numpy as np
import torch

from vqtok.models.text_vq import TextVQConfig, TextVQModel

ENGLISH = (
    "It was the best of times, it was the worst of times; the season of Light, and of Darkness.\n"
    "We had everything before us, we had nothing before us: so far, said the noisiest of them.\n"
)
CODE = "def f(x):\n\treturn {k: v for k, v in x.items() if k != 'ß'}  # 0x1F\r\n"
CORPUS = (ENGLISH + CODE) * 3


def bytes_of(text: str) -> torch.Tensor:
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    return torch.from_numpy(data.astype(np.int64))[None]


def started(codebook_size=512, num_codebooks=2, **fields) -> TextVQModel:
    quantizer = {
        "kind": "residual",
        "codebook_size": codebook_size,
        "num_codebooks": num_codebooks,
        "commitment_weight": 0.0,
    }
    config = TextVQConfig.preset("nano", quantizer_config=quantizer, **fields)
    model = TextVQModel(config).eval()
    model.start_codebooks(bytes_of(CORPUS))
    return model
