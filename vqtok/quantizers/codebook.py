"""A codebook: K vectors of width D, learned from the latents that choose them.

`learning="ema"` moves each code to the running mean of its latents; `"gradient"` leaves that to
the optimizer. Both start by k-means and revive codes that hardly anyone uses.

Sources: van den Oord et al. 2017, arXiv 1711.00937, appendix A.1 (EMA); Razavi et al. 2019,
arXiv 1906.00446; revival relative to uniform use as in moshi, because an absolute threshold
depends on batch size and K (WavTokenizer #82).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtok.errors import ConfigError, ShapeError
from vqtok.ops.nearest import nearest_code
from vqtok.quantizers.base import is_number, whole_number
from vqtok.quantizers.kmeans import (
    MAX_VECTORS_PER_CENTER,
    cluster_sums,
    kmeans,
    progressive_kmeans,
)
from vqtok.quantizers.precision import Float32Module
from vqtok.quantizers.revival import REVIVALS, thinned
from vqtok.quantizers.sync import (
    copy_from_first_rank,
    gather_rows,
    is_first_rank,
    sum_over_ranks,
    world_size,
)

LEARNING = ("ema", "gradient")
FIRST_DRAW_SEED = 20171102


class Codebook(Float32Module):
    """K codes of width D with their statistics; all float32, whatever the model's dtype.

    Args:
        codebook_size: K.
        dim: D.
        learning: "ema" (codes are a buffer) or "gradient" (codes are a parameter).
        decay: of the running counts and sums, one step per `upkeep`.
        unit_norm: codes and latents are compared on the unit sphere.
        revive_below: a code is dead below this share of uniform use, 1/K; 0 revives nothing.
        revive_by: "random" puts dead codes onto recent latents, "split" beside busy codes.
        seed: of the draw that stands in for the codes until they are initialized.

    State, all saved: `codes` [K, D]; `code_counts` [K], running uses per step; `code_sums` [K, D],
    running sums of the latents (EMA only); `initialized` and `frozen`, uint8 flags. Statistics
    gathered since the last `upkeep` are not saved: checkpoint between steps.
    """

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        learning: str = "ema",
        decay: float = 0.99,
        unit_norm: bool = False,
        revive_below: float = 0.1,
        revive_by: str = "random",
        seed: int = FIRST_DRAW_SEED,
    ):
        super().__init__()
        _check(codebook_size, dim, learning, decay, revive_below, revive_by)
        self.codebook_size, self.dim = codebook_size, dim
        self.learning, self.decay, self.unit_norm = learning, decay, unit_norm
        self.revive_below, self.revive_by, self.seed = revive_below, revive_by, seed

        # explicit dtypes: transformers casts what has the default dtype
        codes = torch.empty(codebook_size, dim, dtype=torch.float32)
        if learning == "gradient":
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
            self.register_buffer("code_sums", torch.empty_like(codes))
        self.register_buffer("code_counts", torch.empty(codebook_size, dtype=torch.float32))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.uint8))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.uint8))
        self._flags_seen: dict[str, tuple[Tensor, int, bool]] = {}
        self._drop_gathered()
        if not self.codes.is_meta:
            self._load_initial_state()

    def initial_state(self) -> dict[str, Tensor]:
        """The state before any training, on the CPU: the same on every machine and every time."""
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        shape = (self.codebook_size, self.dim)
        codes = torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)
        codes = self.prepare(codes)
        state = {
            "codes": codes,
            "code_counts": torch.ones(self.codebook_size, device="cpu", dtype=torch.float32),
            "initialized": torch.zeros((), device="cpu", dtype=torch.uint8),
            "frozen": torch.zeros((), device="cpu", dtype=torch.uint8),
        }
        if self.learning == "ema":
            state["code_sums"] = codes.clone()
        return state

    @torch.no_grad()
    def _load_initial_state(self) -> None:
        for name, value in self.initial_state().items():
            getattr(self, name).copy_(value)

    # Latents to codes and back

    def prepare(self, vectors: Tensor) -> Tensor:
        """[..., D] any float to float32, on the unit sphere where the codebook lives there."""
        vectors = vectors.float()
        return F.normalize(vectors, dim=-1) if self.unit_norm else vectors

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """Prepared vectors [..., D] to codes [...] int64."""
        codes = nearest_code(vectors.reshape(-1, self.dim), self.table())
        return codes.view(vectors.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes [...] to float32 [..., D]; with gradient if the codes learn by it."""
        return self.compared(self.live_codes()[codes])

    def live_codes(self) -> Tensor:
        """The codes as stored, [K, D]; with gradient if they learn by it and are not frozen."""
        return self.codes.detach() if self.is_frozen else self.codes

    def compared(self, codes: Tensor) -> Tensor:
        """Stored codes [..., D] as they are compared: gradient steps leave the unit sphere.

        To be called on looked-up rows, so that backward needs nothing that revival overwrites.
        """
        return self.prepare(codes) if self.learning == "gradient" else codes

    def table(self) -> Tensor:
        """All codes as they are compared: [K, D] float32, no gradient."""
        return self.compared(self.codes.detach())

    # State

    @property
    def is_initialized(self) -> bool:
        return self._flag("initialized")

    @property
    def is_frozen(self) -> bool:
        return self._flag("frozen")

    def freeze(self) -> None:
        """No change by gradient or upkeep from here on; saved with the codes."""
        self.frozen.fill_(1)
        self._drop_gathered()
        if self.learning == "gradient":
            # an optimizer skips what has no gradient, weight decay too
            self.codes.requires_grad_(False).grad = None

    def _flag(self, name: str) -> bool:
        """A uint8 buffer as bool; read from its device only when the buffer has changed."""
        buffer = getattr(self, name)
        if buffer.is_meta:
            return False
        if buffer.is_inference():  # has no version to compare
            return bool(buffer)
        seen = self._flags_seen.get(name)
        if seen is None or seen[0] is not buffer or seen[1] != buffer._version:
            seen = (buffer, buffer._version, bool(buffer))
            self._flags_seen[name] = seen
        return seen[2]

    # Start

    def initialize(self, vectors: Tensor, thorough: bool = False) -> None:
        """Starts the codes by k-means on vectors [N, D] of all ranks.

        Args:
            vectors: [N, D], those of this rank.
            thorough: take `progressive_kmeans`, slower and better; on the unit sphere there is
                none.

        Raises:
            ConfigError: the codebook is frozen.
            ShapeError: no rank brings a vector, or the width differs.
        """
        if self.is_frozen:
            raise ConfigError("this codebook is frozen: it cannot be initialized again.")
        if not self._start(vectors, thorough and not self.unit_norm):
            raise ShapeError("a codebook wants at least one vector to start on; got none.")

    def initialize_thoroughly(self, vectors: Tensor) -> None:
        """`initialize` for a codebook that no training follows."""
        self.initialize(vectors, thorough=True)

    def initialize_once(self, vectors: Tensor) -> None:
        """`initialize` in a training step: only if still needed, and possible."""
        if not self.is_initialized and not self.is_frozen:
            self._start(vectors)

    @torch.no_grad()
    def _start(self, vectors: Tensor, thorough: bool = False) -> bool:
        """False where no rank has a vector."""
        self._check_vectors(vectors)
        limit = -(-self.codebook_size * MAX_VECTORS_PER_CENTER // world_size())
        rows = gather_rows(thinned(self.prepare(vectors), limit))
        if rows.shape[0] == 0:
            return False
        if is_first_rank():
            if thorough:
                self.codes.copy_(progressive_kmeans(rows, self.codebook_size))
            else:
                self.codes.copy_(kmeans(rows, self.codebook_size, unit_norm=self.unit_norm))
        copy_from_first_rank([self.codes.data])
        self._forget_statistics()
        self.initialized.fill_(1)
        return True

    @torch.no_grad()
    def move(self, errors: Tensor, codes: Tensor) -> Tensor:
        """Moves every code by the mean error of its vectors: the least squared error there is.

        Codes without a vector go where the errors of the first rank are largest, and statistics
        start anew. All ranks must call it.

        Args:
            errors: [N, D] float32, vectors less what stands for them now; N >= 1.
            codes: [N] int64, the code of each vector.

        Returns:
            [K, D], how far each code went; 0 for those without a vector.
        """
        if self.is_frozen:
            raise ConfigError("this codebook is frozen: its codes cannot be moved.")
        before = self.table()
        counts, sums = cluster_sums(errors, codes, self.codebook_size)
        sum_over_ranks([counts, sums])
        after = self.prepare(before + sums / counts.clamp(min=1)[:, None])
        empty = (counts == 0).nonzero().squeeze(1)[: errors.shape[0]]
        worst = errors.square().sum(1).topk(empty.shape[0]).indices
        moves = torch.where(counts[:, None] > 0, after - before, 0)
        after[empty] = self.prepare(before[codes[worst]] + errors[worst])
        self.codes.copy_(after)
        copy_from_first_rank([self.codes.data])
        self._forget_statistics()
        return moves

    def _forget_statistics(self) -> None:
        self.code_counts.fill_(1)
        if self.learning == "ema":
            self.code_sums.copy_(self.codes)
        self._drop_gathered()

    # Upkeep

    @torch.no_grad()
    def gather(self, vectors: Tensor, codes: Tensor) -> None:
        """Remembers prepared vectors [N, D] and their codes [N] for the next `upkeep`.

        Only positions that count belong in here. Does nothing in eval mode or when frozen.
        """
        if not self.training or self.is_frozen:
            return
        self._check_vectors(vectors)
        vectors = vectors.detach()
        counts, sums = cluster_sums(vectors, codes, self.codebook_size)
        if self._gathered is None:
            self._gathered = (counts, sums, thinned(vectors, self.codebook_size))
            return
        old_counts, old_sums, old_rows = self._gathered
        rows = torch.cat([old_rows, vectors])
        rows = thinned(rows, self.codebook_size)
        self._gathered = (old_counts + counts, old_sums + sums, rows)

    @torch.no_grad()
    def upkeep(self) -> None:
        """Moves the codes by what was gathered on all ranks, then revives dead ones.

        Every rank must call it. Does nothing in eval mode, when frozen, or with nothing gathered.
        """
        if not self.training or self.is_frozen:
            return
        if self._gathered is None and world_size() == 1:
            return
        counts, sums, rows = self._take_gathered()
        sum_over_ranks([counts, sums] if self.learning == "ema" else [counts])
        self._blend(counts, sums)
        if self.revive_below > 0:
            self._revive(rows)

    def _blend(self, counts: Tensor, sums: Tensor) -> None:
        # a step without a single vector anywhere is no step
        weight = (1 - self.decay) * (counts.sum() > 0)
        self.code_counts.lerp_(counts, weight)
        if self.learning == "gradient":
            return
        self.code_sums.lerp_(sums, weight)
        used = counts > 0  # the others keep their place to the last bit
        means = self.code_sums / torch.where(used, self.code_counts, 1)[:, None]
        if self.unit_norm:
            used &= means.norm(dim=-1) > 1e-6  # opposite latents have no direction
            means = F.normalize(means, dim=-1)
        self.codes.copy_(torch.where(used[:, None], means, self.codes))

    def _revive(self, rows: Tensor) -> None:
        dead = (self.code_counts < self.revive_below * self.code_counts.mean()).to(torch.uint8)
        copy_from_first_rank([dead])  # one verdict for all, or the next call would hang
        index = dead.nonzero().squeeze(1)
        if index.shape[0] == 0:
            return
        share = -(-self.codebook_size // world_size())
        rows = gather_rows(thinned(rows, share))
        revival = REVIVALS[self.revive_by](index, self.table(), self.code_counts, rows)
        self.codes[revival.index] = self.prepare(revival.codes)
        self.code_counts[revival.index] = revival.counts
        state = [self.codes.data, self.code_counts]
        if self.learning == "ema":
            # the old sums would pull the code straight back (espnet #6284)
            sums = self.codes[revival.index] * revival.counts[:, None]
            self.code_sums[revival.index] = sums
            state.append(self.code_sums)
        copy_from_first_rank(state)

    def _take_gathered(self) -> tuple[Tensor, Tensor, Tensor]:
        gathered = self._gathered
        self._drop_gathered()
        if gathered is None:
            codes = self.codes.detach()
            return torch.zeros_like(self.code_counts), torch.zeros_like(codes), codes[:0]
        device = self.codes.device  # the model may have moved since
        return tuple(tensor.to(device) for tensor in gathered)

    def _drop_gathered(self) -> None:
        # counts [K], sums [K, D], candidate vectors [at most K, D]
        self._gathered: tuple[Tensor, Tensor, Tensor] | None = None

    def _check_vectors(self, vectors: Tensor) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ShapeError(
                f"this codebook wants vectors [N, {self.dim}]; got {list(vectors.shape)}."
            )

    def extra_repr(self) -> str:
        return f"{self.codebook_size}, {self.dim}, learning={self.learning!r}"


def _check(
    codebook_size: int, dim: int, learning: str, decay: float, revive_below: float, revive_by: str
) -> None:
    whole_number("codebook_size", codebook_size, 2)
    whole_number("dim", dim, 1)
    if learning not in LEARNING:
        raise ConfigError(f"learning must be one of {LEARNING}; got {learning!r}.")
    if not is_number(decay) or not 0 <= decay < 1:
        raise ConfigError(f"decay must be a number in [0, 1); got {decay!r}.")
    if not is_number(revive_below) or not 0 <= revive_below < 1:
        raise ConfigError(
            f"revive_below is a share of uniform use, in [0, 1); got {revive_below!r}. "
            "0.1 is usual, 0 switches revival off."
        )
    if revive_by not in REVIVALS:
        raise ConfigError(f"revive_by must be one of {sorted(REVIVALS)}; got {revive_by!r}.")
