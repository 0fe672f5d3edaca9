"""What a run needs that depends on what the tokenizer takes: its data, and what is measured.

`TASKS` has one entry a modality; a new one is a new entry, with sections in `recipe_sections`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from vqtok.metrics.image import to_uint8
from vqtok.models.base import VQTokenizerModel
from vqtok.training.audio_data import AudioStore, RandomExcerpts, collate_excerpts
from vqtok.training.audio_evaluation import AudioEvaluation, middle
from vqtok.training.evaluation import (
    Evaluation,
    ImageEvaluation,
    TextEvaluation,
    VectorEvaluation,
)
from vqtok.training.image_data import ImageStore, RandomCrops, centre_squares, collate_crops
from vqtok.training.recipe_sections import (
    AudioData,
    AudioEvaluationSection,
    DataSection,
    EvaluationSection,
    ImageData,
    ImageEvaluationSection,
    TextData,
    TextEvaluationSection,
    VectorData,
    VectorEvaluationSection,
)
from vqtok.training.text_data import RandomWindows, collate_windows, read_bytes, windows
from vqtok.training.vector_data import ShuffledVectors, collate_vectors, read_vector_files


@dataclass(frozen=True)
class Task:
    """How runs of a modality are put together.

    Attributes:
        data: model, section, samples of the run and seed to the stream of samples.
        collate: a list of samples to the model's arguments.
        evaluation: model and section to what makes the reports.
    """

    data: Callable[[VQTokenizerModel, DataSection, int, int], Dataset]
    collate: Callable[[list[Tensor]], dict[str, Tensor]]
    evaluation: Callable[[VQTokenizerModel, EvaluationSection], Evaluation]


def read_pixels(model: VQTokenizerModel, item: Any) -> np.ndarray:
    """A picture as the model's own processor reads it, to uint8 [H, W, 3]."""
    pixels, _ = model.processor.read(item)
    return np.ascontiguousarray(to_uint8(pixels).permute(1, 2, 0).numpy())


def image_data(model: VQTokenizerModel, data: ImageData, samples: int, seed: int) -> Dataset:
    read = functools.partial(read_pixels, model)
    store = ImageStore(data.source, data.column, data.limit, data.memory_mb, read)
    scale = (data.scale[0], data.scale[1])
    return RandomCrops(store, samples, data.crop, seed, scale, data.flip)


def image_evaluation(model: VQTokenizerModel, section: ImageEvaluationSection) -> Evaluation:
    read = functools.partial(read_pixels, model)
    # encoded until it is their turn: only the small squares stay
    originals = ImageStore(section.source, section.column, section.limit, 0, read)
    return ImageEvaluation(centre_squares(originals, section.size), section.batch_size)


def audio_data(model: VQTokenizerModel, data: AudioData, samples: int, seed: int) -> Dataset:
    rate, channels = model.sample_rate_hz, model.channels
    store = AudioStore(data.source, rate, channels, data.column, data.limit, data.memory_mb)
    gain_db = (data.gain_db[0], data.gain_db[1])
    return RandomExcerpts(store, samples, data.crop, seed, gain_db, data.mix)


def audio_evaluation(model: VQTokenizerModel, section: AudioEvaluationSection) -> Evaluation:
    rate, channels = model.sample_rate_hz, model.channels
    originals = AudioStore(section.source, rate, channels, section.column, section.limit, 0)
    return AudioEvaluation([middle(sound, section.size).clone() for sound in originals], rate)


def text_data(model: VQTokenizerModel, data: TextData, samples: int, seed: int) -> Dataset:
    text = read_bytes(data.source, data.column, data.limit)
    return RandomWindows(text, samples, data.crop, seed)


def text_evaluation(model: VQTokenizerModel, section: TextEvaluationSection) -> Evaluation:
    text = read_bytes(section.source, section.column, section.limit)
    return TextEvaluation(windows(text, section.size), section.batch_size)


def vector_data(model: VQTokenizerModel, data: VectorData, samples: int, seed: int) -> Dataset:
    width = model.config.embedding_dim
    return ShuffledVectors(
        read_vector_files(data.source, width, data.column, data.limit), samples, seed
    )


def vector_evaluation(model: VQTokenizerModel, section: VectorEvaluationSection) -> Evaluation:
    width = model.config.embedding_dim
    vectors = read_vector_files(section.source, width, section.column, section.limit)
    return VectorEvaluation(vectors, section.batch_size)


TASKS = {
    "image": Task(image_data, collate_crops, image_evaluation),
    "audio": Task(audio_data, collate_excerpts, audio_evaluation),
    "text": Task(text_data, collate_windows, text_evaluation),
    "embedding": Task(vector_data, collate_vectors, vector_evaluation),
}
