"""Which model types this package brings, and how transformers' Auto classes get to know them.

Nothing here imports a model until it is needed: the package's roof calls `register_*` when
transformers has loaded the Auto class in question.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Family:
    """A folder of `vqtok.models` with the usual three files, and the classes in them."""

    folder: str
    config: str
    model: str
    image_processor: str | None = None
    feature_extractor: str | None = None

    def load(self, kind: str, name: str) -> type:
        module = importlib.import_module(f"vqtok.models.{self.folder}.{kind}_{self.folder}")
        return getattr(module, name)

    @property
    def config_class(self) -> type:
        return self.load("configuration", self.config)

    @property
    def model_class(self) -> type:
        return self.load("modeling", self.model)


FAMILIES = {
    "vqtok_vim_vq": Family("vim_vq", "VimVQConfig", "VimVQModel", "VimVQImageProcessor"),
    "vqtok_rvq_codec": Family(
        "rvq_codec", "RVQCodecConfig", "RVQCodecModel", feature_extractor="RVQCodecProcessor"
    ),
    "vqtok_embedding_vq": Family("embedding_vq", "EmbeddingVQConfig", "EmbeddingVQModel"),
    "vqtok_text_vq": Family("text_vq", "TextVQConfig", "TextVQModel"),
}


def register_configs(auto: ModuleType) -> None:
    """For `AutoConfig`; `auto` is transformers.models.auto.configuration_auto."""
    for model_type, family in FAMILIES.items():
        auto.AutoConfig.register(model_type, family.config_class, exist_ok=True)


def register_models(auto: ModuleType) -> None:
    """For `AutoModel`; `auto` is transformers.models.auto.modeling_auto."""
    for family in FAMILIES.values():
        auto.AutoModel.register(family.config_class, family.model_class, exist_ok=True)


def register_image_processors(auto: ModuleType) -> None:
    """For `AutoImageProcessor`; `auto` is transformers.models.auto.image_processing_auto."""
    for family in FAMILIES.values():
        if family.image_processor is not None:
            processor = family.load("image_processing", family.image_processor)
            # one class for both back-ends: the bytes of a picture must not depend on the choice
            classes = {"pil": processor, "torchvision": processor}
            auto.AutoImageProcessor.register(
                family.config_class, image_processor_classes=classes, exist_ok=True
            )


def register_feature_extractors(auto: ModuleType) -> None:
    """For `AutoFeatureExtractor`; `auto` is transformers.models.auto.feature_extraction_auto."""
    for family in FAMILIES.values():
        if family.feature_extractor is not None:
            extractor = family.load("audio_processing", family.feature_extractor)
            auto.AutoFeatureExtractor.register(family.config_class, extractor, exist_ok=True)
