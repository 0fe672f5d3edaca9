"""Pure tensor functions: no parameters, no transformers; the tensor's device picks the kernel."""

from vqtok.ops import nearest_cpu  # noqa: F401  importing a kernel file registers its kernels
from vqtok.ops.beam import beam_codes
from vqtok.ops.gradients import rotation_trick, straight_through
from vqtok.ops.nearest import nearest_code
from vqtok.ops.packing import checked_cast, pack_bits, smallest_dtype, unpack_bits
from vqtok.ops.residual import residual_codes
from vqtok.ops.scan import bidirectional_scan, state_space_scan

__all__ = [
    "beam_codes",
    "bidirectional_scan",
    "checked_cast",
    "nearest_code",
    "pack_bits",
    "residual_codes",
    "rotation_trick",
    "smallest_dtype",
    "state_space_scan",
    "straight_through",
    "unpack_bits",
]
