"""The sections of a recipe: what can be set, what it is by default, what cannot be.

`data` and `evaluation` differ by what is trained on; `MODALITIES` says how.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from vqtok.errors import ConfigError


@dataclass
class ModelSection:
    """A preset, an own configuration, or a tokenizer to go on from.

    `type` is the name of a model's folder. Models without presets are described by `overrides` of
    their default configuration alone.
    """

    type: str = "vim_vq"
    preset: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    from_pretrained: str | None = None

    def check(self) -> None:
        if self.preset is not None and self.from_pretrained is not None:
            raise ConfigError("model wants either preset or from_pretrained, and not both.")
        if self.from_pretrained is not None and self.overrides:
            raise ConfigError("model.overrides change a preset; a loaded tokenizer is as it is.")


@dataclass
class DataSection:
    """Where training data comes from.

    `source` is a folder, searched in the order of the names, or a file; `column` that of parquet
    files; `limit` keeps the first items (files, rows) only; `workers` prepare batches beside the
    training process.
    """

    source: str = ""
    column: str = ""
    limit: int | None = None
    workers: int = 0

    def check(self) -> None:
        if not self.source:
            raise ConfigError("data.source is missing: name a folder or a file.")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit must be at least 1, or null; got {self.limit}.")


@dataclass
class ImageData(DataSection):
    """Crops of `crop` x `crop` pixels; see `ImageStore` and `RandomCrops`."""

    column: str = "image"
    memory_mb: int = 4096
    crop: int = 128
    scale: list[float | None] = field(default_factory=lambda: [1.0, None])
    flip: bool = True

    def check(self) -> None:
        super().check()
        if len(self.scale) != 2 or self.scale[0] is None:
            raise ConfigError(f"data.scale is [smallest, largest or null]; got {self.scale}.")


@dataclass
class AudioData(DataSection):
    """Excerpts of `crop` samples; see `AudioStore` and `RandomExcerpts`."""

    column: str = "audio"
    memory_mb: int = 4096
    crop: int = 16_384
    gain_db: list[float] = field(default_factory=lambda: [-12.0, 6.0])
    mix: float = 0.0

    def check(self) -> None:
        super().check()
        if len(self.gain_db) != 2 or self.gain_db[0] > self.gain_db[1]:
            raise ConfigError(f"data.gain_db is [least, most] in dB; got {self.gain_db}.")


@dataclass
class TextData(DataSection):
    """Windows of `crop` bytes; see `ByteStore` and `RandomWindows`."""

    column: str = "text"
    crop: int = 256


@dataclass
class VectorData(DataSection):
    """Whole vectors, so there is no crop; see `read_vector_files`."""

    column: str = "embedding"


@dataclass
class TrainingSection:
    """The optimizer (AdamW), its schedule, and the rhythm of logs, checkpoints and evaluations.

    `batch_size` is a process's; `accumulation` of them make an optimizer step. A step count of 0
    turns evaluation (`eval_steps`) off; checkpoints are always written at the end.
    """

    steps: int = 10_000
    batch_size: int = 16
    accumulation: int = 1
    lr: float = 1e-3
    lr_min: float = 0.0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 200
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    init_batches: int | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu"] = "auto"
    threads: int | None = None
    seed: int = 0
    log_steps: int = 50
    save_steps: int = 500
    keep_checkpoints: int = 2
    eval_steps: int = 0
    report_to: list[str] = field(default_factory=list)

    def check(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_steps", "save_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1; got {getattr(self, name)}.")
        if self.keep_checkpoints < 2:
            raise ConfigError(
                "training.keep_checkpoints must be at least 2: an interrupted save leaves the "
                f"older one; got {self.keep_checkpoints}."
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"training.betas are two numbers in [0, 1); got {self.betas}.")
        if not 0 <= self.lr_min <= self.lr or self.lr == 0:
            raise ConfigError(
                f"training wants 0 <= lr_min <= lr, lr above 0; got {self.lr_min}, {self.lr}."
            )
        if self.lr_min and self.schedule != "cosine":
            raise ConfigError(
                f"training.lr_min belongs to the cosine schedule; {self.schedule} does not use it."
            )
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"training.ema_decay is 0 (off) to below 1; got {self.ema_decay}.")
        if self.grad_clip < 0 or self.weight_decay < 0 or self.warmup_steps < 0:
            raise ConfigError("training.grad_clip, weight_decay, warmup_steps: none below 0.")


@dataclass
class EvaluationSection:
    """What to report on; without a source there is no report."""

    source: str | None = None
    column: str = ""
    limit: int | None = None

    def check(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"evaluation.limit must be at least 1, or null; got {self.limit}.")


@dataclass
class ImageEvaluationSection(EvaluationSection):
    """Centre squares, resized to `size` x `size` pixels."""

    column: str = "image"
    size: int = 256
    batch_size: int = 8

    def check(self) -> None:
        super().check()
        if self.size < 16 or self.batch_size < 1:
            raise ConfigError(
                f"evaluation wants size >= 16 and batch_size >= 1; got {self.size}, "
                f"{self.batch_size}."
            )


@dataclass
class AudioEvaluationSection(EvaluationSection):
    """The middle `size` samples of each sound, or all of a shorter one, one at a time."""

    column: str = "audio"
    size: int = 96_000

    def check(self) -> None:
        super().check()
        if self.size < 1:
            raise ConfigError(f"evaluation.size must be at least 1 sample; got {self.size}.")


@dataclass
class TextEvaluationSection(EvaluationSection):
    """The texts one after another, cut into windows of `size` bytes."""

    column: str = "text"
    size: int = 256
    batch_size: int = 32

    def check(self) -> None:
        super().check()
        if self.size < 1 or self.batch_size < 1:
            raise ConfigError(
                f"evaluation wants size and batch_size of at least 1; got {self.size}, "
                f"{self.batch_size}."
            )


@dataclass
class VectorEvaluationSection(EvaluationSection):
    """Whole vectors."""

    column: str = "embedding"
    batch_size: int = 1024

    def check(self) -> None:
        super().check()
        if self.batch_size < 1:
            raise ConfigError(f"evaluation.batch_size must be at least 1; got {self.batch_size}.")


# the sections `data` and `evaluation` by what a model takes
MODALITIES: dict[str, tuple[type[DataSection], type[EvaluationSection]]] = {
    "image": (ImageData, ImageEvaluationSection),
    "audio": (AudioData, AudioEvaluationSection),
    "text": (TextData, TextEvaluationSection),
    "embedding": (VectorData, VectorEvaluationSection),
}
