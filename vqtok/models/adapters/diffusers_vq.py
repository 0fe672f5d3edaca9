"""diffusers' `VQModel`: the image tokenizers of LDM, Paella, Kandinsky (MoVQ), aMUSEd.

Source: class `diffusers.VQModel`; Esser et al. 2021, arXiv 2012.09841. Its `encode` gives latents:
the ids are those of its quantizer. In a pipeline it lies in a subfolder (`subfolder="vqvae"`).
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig

from vqtok.errors import ConfigError, LoadError
from vqtok.models.adapters.image import ImageAdapter, ImagePreprocessor
from vqtok.models.adapters.loading import check_budget, check_finite, check_report, finish
from vqtok.models.images import READING
from vqtok.models.loading import UNBUILDABLE, check_value, weight_files

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"


class DiffusersVQConfig(PreTrainedConfig):
    """The options of a `diffusers.VQModel` as a transformers config."""

    model_type = "diffusers_vqmodel"


class DiffusersPreprocessor(ImagePreprocessor):
    """diffusers' `VaeImageProcessor`: rounds the size down to whole codes, [-1, 1]."""

    def code_options(self) -> dict[str, Any]:
        native = {"vae_scale_factor": self.native.config.vae_scale_factor}
        return {"class": type(self.native).__name__, "native": native, "reading": READING}

    def prepare(self, image: Image.Image) -> Tensor:
        return self.native.preprocess(image)[0]

    def unscale(self, values: Tensor) -> Tensor:
        return (values + 1) * 127.5

    def save_pretrained(self, folder: Any) -> None:
        """Nothing: diffusers derives its processor from the model."""


class DiffusersVQTokenizer(ImageAdapter):
    """`native.encode` for latents, `native.quantize` for ids."""

    processor_class = DiffusersPreprocessor
    decode_fields = ("act_fn", "norm_num_groups", "norm_type", "up_block_types")
    encode_fields = ("down_block_types",)

    @classmethod
    def load(cls, folder: Path, content: Mapping[str, Any]) -> "DiffusersVQTokenizer":
        options = clean_options(content)
        files = weight_files(folder, name=WEIGHTS_NAME)
        vq_class = import_diffusers().VQModel
        try:
            with torch.device("meta"):
                check_budget(vq_class(**options), files, folder)
            native, report = vq_class.from_pretrained(
                str(folder),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                torch_dtype=torch.float32,
                **options,
            )
        except (*UNBUILDABLE, OSError) as error:
            if isinstance(error, LoadError):
                raise
            raise LoadError(f"VQModel cannot be loaded from {folder}: {error}") from error
        check_report(report, folder)
        check_finite(native, folder)
        return finish(cls.around(native), folder)

    @classmethod
    def fresh(cls, config: PreTrainedConfig) -> "DiffusersVQTokenizer":
        return cls.around(import_diffusers().VQModel(**clean_options(config.to_dict())))

    @classmethod
    def around(cls, native: Any) -> "DiffusersVQTokenizer":
        """An adapter for a `diffusers.VQModel`."""
        config = DiffusersVQConfig(**clean_options(native.config))
        factor = 2 ** (len(config.block_out_channels) - 1)
        processor = import_diffusers().image_processor.VaeImageProcessor(vae_scale_factor=factor)
        return cls(native, DiffusersPreprocessor(processor), config)

    @classmethod
    def weight_names(cls, weight_map: Mapping[str, str]) -> list[str]:
        return [WEIGHTS_NAME]

    @property
    def hop(self) -> int:
        return 2 ** (len(self.config.block_out_channels) - 1)

    def _native_encode(self, inputs: Tensor, levels: int) -> Tensor:
        latents = self.native.encode(inputs).latents
        _, _, (_, _, codes) = self.native.quantize(latents)
        return codes.reshape(len(inputs), 1, *latents.shape[2:])

    def _native_decode(self, codes: Tensor) -> Tensor:
        shape = (len(codes), *codes.shape[2:], self.quantizer.vq_embed_dim)
        ids = codes.flatten()
        if self.native.config.lookup_from_codebook:
            return self.native.decode(ids, force_not_quantize=True, shape=shape).sample
        quantized = self.quantizer.get_codebook_entry(ids, shape)
        return self.native.decode(quantized, force_not_quantize=True).sample


def clean_options(content: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that `VQModel` has; the others can only redirect."""
    known = set(inspect.signature(import_diffusers().VQModel.__init__).parameters) - {"self"}
    options = {key: value for key, value in content.items() if key in known}
    check_value("config.json", options)
    return options


def import_diffusers() -> ModuleType:
    try:
        import diffusers
        import diffusers.image_processor
    except ImportError as error:
        raise ConfigError(
            "a diffusers VQModel wants the package diffusers: pip install 'vqtok[diffusers]'."
        ) from error
    return diffusers
