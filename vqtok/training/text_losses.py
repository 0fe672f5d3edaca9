"""What is trained on when the tokenizer gives back a score for every byte."""

from torch import Tensor, nn
from torch.nn import functional as F

from vqtok.errors import ShapeError


class BytesLoss(nn.Module):
    """Cross entropy in nats of the bytes, a mean over them.

    Called with logits [B, L, 256] and int64 [B, L]; bytes that are no class are padding.
    """

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        if reconstruction.ndim != 3 or reconstruction.shape[:2] != target.shape:
            raise ShapeError(
                "the loss of bytes wants logits [B, L, classes] and bytes [B, L]; got "
                f"{list(reconstruction.shape)} and {list(target.shape)}."
            )
        padding = reconstruction.shape[-1]
        logits = reconstruction.float().flatten(0, 1)
        total = F.cross_entropy(logits, target.flatten(), ignore_index=padding, reduction="sum")
        return total / (target != padding).sum().clamp(min=1)
