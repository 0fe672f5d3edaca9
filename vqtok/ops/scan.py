"""State-space scan: the recurrence inside a Mamba-2 block, as chunked matrix products.

    h_t = exp(dt_t a) h_{t-1} + dt_t b_t x_t^T        y_t = c_t h_t

Source: Dao and Gu 2024 (Mamba-2, state-space duality), arXiv 2405.21060, listing 1. The two-way
form is one matrix product with a full matrix where the causal form has a lower triangle
(quasi-separable matrices: Hwang et al. 2024, Hydra, arXiv 2407.09941).

Shapes: B batch, L tokens, H heads, P channels a head, G groups of heads that share b and c,
N state size, n chunks of S tokens. Everything is float32 inside, whatever comes in and under
autocast too; float64 stays float64.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from vqtok.devices import autocast_off
from vqtok.errors import ConfigError, ShapeError

CHUNK = 32  # tokens; 32 to 64 measured fastest on x86 at 64 to 128 channels a head
MAX_CARRY = 32  # chunks that one matrix product carries states across; more recurse


def state_space_scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    reverse: bool = False,
    chunk: int = CHUNK,
    initial_state: Tensor | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """One direction of the scan, with gradients to every argument; cost is linear in L.

    Args:
        x: [B, L, H, P] float.
        dt: [B, L, H] positive step sizes.
        a: [H] negative decay rates.
        b: [B, L, G, N] input maps; G divides H.
        c: [B, L, G, N] output maps.
        reverse: scan from the last token to the first.
        chunk: tokens of a chunk; changes speed and rounding, not the result.
        initial_state: [B, H, P, N], the state that a scan of the tokens before (after, in
            reverse) returned; None where there are none: zeros.
        return_state: also return the state at the end, for the scan of the tokens to come.

    Returns:
        [B, L, H, P], dtype of x; with `return_state` a pair of it and the state [B, H, P, N],
        float32 (float64 if x is).

    Raises:
        ShapeError: shapes that do not fit each other.
    """
    _check(x, dt, a, b, c, chunk)
    _check_state(x, b, initial_state)
    if reverse:
        x, dt, b, c = (t.flip(1) for t in (x, dt, b, c))
    heads_a_group = x.shape[2] // b.shape[2]
    with autocast_off(x.device):
        dtype = _working_dtype(x)
        b, c = (t.to(dtype).repeat_interleave(heads_a_group, 2) for t in (b, c))  # [B, L, H, N]
        state = None if initial_state is None else initial_state.to(dtype).mT
        y, state = _causal_chunks(x.to(dtype), dt.to(dtype), a.to(dtype), b, c, chunk, state)
    y = (y.flip(1) if reverse else y).type_as(x)
    return (y, state.mT) if return_state else y


def state_space_scan_reference(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    initial_state: Tensor | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The recurrence as written above, one token after the other: slow, and the truth."""
    _check(x, dt, a, b, c, CHUNK)
    _check_state(x, b, initial_state)
    heads_a_group = x.shape[2] // b.shape[2]
    b, c = (t.repeat_interleave(heads_a_group, 2) for t in (b, c))
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], *x.shape[2:], b.shape[-1])
    state = initial_state.mT  # [B, H, N, P]
    outputs = []
    for t in range(x.shape[1]):
        decay = (dt[:, t] * a).exp()[..., None, None]
        state = decay * state + (dt[:, t, :, None] * b[:, t])[..., None] * x[:, t, :, None]
        outputs.append((c[:, t, :, None] @ state).squeeze(2))
    y = torch.stack(outputs, 1) if outputs else torch.zeros_like(x)
    return (y, state.mT) if return_state else y


def bidirectional_scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Sum of a forward and a backward scan over the same x, for little more than one.

    Equal to `state_space_scan(x, dt[..., 0], a[..., 0], b[..., :1, :], c[..., :1, :])` plus the
    reverse scan of index 1.

    Args:
        x: [B, L, H, P] float.
        dt: [B, L, H, 2] positive; the last axis is (forward, backward).
        a: [H, 2] negative.
        b: [B, L, 2, N]; axis 2 is (forward, backward), shared by all heads.
        c: [B, L, 2, N].

    Returns:
        [B, L, H, P], dtype of x.

    Raises:
        ShapeError: shapes that do not fit each other.
    """
    if dt.shape[-1:] != (2,) or a.shape[-1:] != (2,) or b.ndim != 4 or b.shape[2] != 2:
        raise ShapeError(
            "bidirectional_scan wants dt [B, L, H, 2], a [H, 2], b and c [B, L, 2, N]; "
            f"got {list(dt.shape)}, {list(a.shape)}, {list(b.shape)}."
        )
    _check(x, dt[..., 0], a[..., 0], b[:, :, :1], c[:, :, :1], CHUNK)
    with autocast_off(x.device):
        dtype = _working_dtype(x)
        return _two_way_chunks(*(t.to(dtype) for t in (x, dt, a, b, c))).type_as(x)


def _working_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _check(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, chunk: int) -> None:
    fits = (
        x.ndim == 4
        and dt.shape == x.shape[:3]
        and a.shape == x.shape[2:3]
        and b.ndim == 4
        and b.shape == c.shape
        and b.shape[:2] == x.shape[:2]
        and b.shape[2] > 0
        and x.shape[2] % b.shape[2] == 0
    )
    if not fits:
        raise ShapeError(
            "a state-space scan wants x [B, L, H, P], dt [B, L, H], a [H], b and c [B, L, G, N] "
            f"with G dividing H; got {[list(t.shape) for t in (x, dt, a, b, c)]}."
        )
    if chunk < 1:
        raise ConfigError(f"chunk must be at least 1 token; got {chunk}.")


def _check_state(x: Tensor, b: Tensor, state: Tensor | None) -> None:
    wanted = [x.shape[0], *x.shape[2:], b.shape[-1]]
    if state is not None and list(state.shape) != wanted:
        raise ShapeError(
            f"the initial_state of this scan must be [B, H, P, N] = {wanted}; "
            f"got {list(state.shape)}."
        )


def _split(t: Tensor, size: int) -> Tensor:
    """[B, L, ...] to [B, n, S, ...], zeros at the end: dt = 0 neither decays nor adds."""
    missing = -t.shape[1] % size
    if missing:
        t = pad(t, (0, 0) * (t.ndim - 2) + (0, missing))
    return t.unflatten(1, (-1, size))


def _causal_chunks(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, chunk: int, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Outputs [B, L, H, P] and the state after the last token, [B, H, N, P] as the one before."""
    length = x.shape[1]
    if length == 0:
        none = x.new_zeros(x.shape[0], x.shape[2], b.shape[-1], x.shape[3])
        return x, none if state is None else state
    size = min(chunk, length)
    x, dt, b, c = (_split(t, size) for t in (x, dt, b, c))
    step = (dt * a).transpose(2, 3)  # [B, n, H, S], log decay of every token
    total = step.cumsum(-1)
    x = (x * dt[..., None]).transpose(2, 3)  # [B, n, H, S, P]
    b, c = b.transpose(2, 3), c.transpose(2, 3)  # [B, n, H, S, N]

    decay = total[..., :, None] - total[..., None, :]
    above = torch.ones(size, size, dtype=torch.bool, device=x.device).triu(1)
    weights = (c @ b.mT) * decay.masked_fill(above, -torch.inf).exp()
    y = weights @ x

    last = total[..., -1:]
    states = (b * (last - total).exp()[..., None]).mT @ x  # [B, n, H, N, P]
    last = last[..., 0]  # [B, n, H], log decay of every chunk
    before = _carry(states, last)
    if state is not None:
        reach = (last.cumsum(1) - last).exp()  # from the start to before each chunk
        before = before + reach[..., None, None] * state[:, None]
    y = y + (c * total.exp()[..., None]) @ before
    after = last[:, -1].exp()[..., None, None] * before[:, -1] + states[:, -1]
    return y.transpose(2, 3).flatten(1, 2)[:, :length], after


def _carry(states: Tensor, decay: Tensor) -> Tensor:
    """State before each chunk, from what every chunk adds and its log decay.

    states [B, n, H, N, P], decay [B, n, H] to [B, n, H, N, P]. Few chunks are one lower
    triangular product; many are carried inside groups first and then across the groups.
    """
    count = states.shape[1]
    if count > MAX_CARRY:
        groups, group_decay = _split(states, MAX_CARRY), _split(decay, MAX_CARRY)
        inside = _carry(groups.flatten(0, 1), group_decay.flatten(0, 1)).view_as(groups)
        ends = group_decay.sum(2)  # [B, m, H]
        last = group_decay[:, :, -1].exp()[..., None, None]
        across = _carry(inside[:, :, -1] * last + groups[:, :, -1], ends)  # [B, m, H, N, P]
        reach = (group_decay.cumsum(2) - group_decay).exp()[..., None, None]
        return (inside + reach * across[:, :, None]).flatten(1, 2)[:, :count]
    total = decay.cumsum(1).transpose(1, 2)  # [B, H, n]
    until = total - decay.transpose(1, 2)
    reach = until[..., :, None] - total[..., None, :]  # from after chunk j to before chunk i
    ahead = torch.ones(count, count, dtype=torch.bool, device=states.device).triu()
    weights = reach.masked_fill(ahead, -torch.inf).exp()  # [B, H, n, n]
    flat = states.transpose(1, 2).flatten(3)  # [B, H, n, N * P]
    return (weights @ flat).unflatten(-1, states.shape[-2:]).transpose(1, 2)


def _two_way_chunks(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    length = x.shape[1]
    if length == 0:
        return x
    size = min(CHUNK, length)
    x, dt, b, c = (_split(t, size) for t in (x, dt, b, c))
    x = x.transpose(2, 3)  # [B, n, H, S, P]
    dt = dt.permute(4, 0, 1, 3, 2)  # [2, B, n, H, S]
    b, c = b.movedim(3, 0), c.movedim(3, 0)  # [2, B, n, S, N]
    step = dt * a.T[:, None, None, :, None]
    inclusive = step.cumsum(-1)
    exclusive = inclusive - step
    end = inclusive[..., -1:]

    # forward, token j reaches i >= j with exp(inclusive_i - inclusive_j); backward, j >= i with
    # exp(exclusive_j - exclusive_i): one exponential serves both triangles
    below = inclusive[0][..., :, None] - inclusive[0][..., None, :]
    above = exclusive[1][..., None, :] - exclusive[1][..., :, None]
    lower = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
    both = c @ b.mT  # [2, B, n, S, S]
    pairs = torch.where(lower, both[0], both[1])[:, :, None]
    rates = torch.where(lower, dt[0][..., None, :], dt[1][..., None, :])
    weights = torch.where(lower, below, above).exp() * rates * pairs  # [B, n, H, S, S]
    # the diagonal belongs to both directions, and the lower triangle took it
    diagonal = (b[1] * c[1]).sum(-1)[:, :, None] * dt[1]  # [B, n, H, S]
    weights = weights + torch.diag_embed(diagonal)

    # both directions side by side on the state axis: one product writes, one reads
    leave = torch.stack([end[0] - inclusive[0], exclusive[1]]).exp() * dt
    enter = torch.stack([inclusive[0], end[1] - exclusive[1]]).exp()
    writes = _side_by_side(b, leave)  # [B, n, H, S, 2 N]
    ahead, behind = (writes.mT @ x).chunk(2, 3)  # [B, n, H, N, P] each
    ahead = _carry(ahead, end[0][..., 0])
    behind = _carry(behind.flip(1), end[1][..., 0].flip(1)).flip(1)
    y = weights @ x + _side_by_side(c, enter) @ torch.cat([ahead, behind], 3)
    return y.transpose(2, 3).flatten(1, 2)[:, :length]


def _side_by_side(maps: Tensor, scale: Tensor) -> Tensor:
    """maps [2, B, n, S, N] times scale [2, B, n, H, S] to [B, n, H, S, 2 N]."""
    return torch.cat([m[:, :, None] * s[..., None] for m, s in zip(maps, scale, strict=True)], -1)
