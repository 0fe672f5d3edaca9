"""Which ids of a packed row may see which: their own document's, and none that come later."""

import numpy as np
import torch
from torch import Tensor

from vqtok.layout.packing.rows import PADDING


def attention_mask(document_ids: np.ndarray | Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The block-diagonal causal mask of packed rows, for SDPA and eager attention.

    Position ids alone keep documents apart only in FlashAttention's variable-length path; with
    this as `attention_mask` and the rows' position ids, a LlamaForCausalLM gives every document
    the logits that it has alone.

    Args:
        document_ids: [B, S] or [S].
        dtype: None for a bool mask, True where an id may be seen; a float type for an additive
            one, 0 there and the type's lowest number elsewhere.

    Returns:
        [B, 1, S, S]; padding sees itself only.
    """
    documents = torch.as_tensor(document_ids)
    documents = documents if documents.ndim == 2 else documents[None]
    length = documents.shape[1]
    own = documents[:, :, None] == documents[:, None, :]
    own &= (documents != PADDING)[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=documents.device)
    visible = ((own & causal) | itself)[:, None]
    if dtype is None:
        return visible
    lowest = torch.finfo(dtype).min
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(
        ~visible, lowest
    )
