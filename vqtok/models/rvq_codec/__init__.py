"""The RVQ codec, the audio tokenizer; each name is loaded on first use."""

from vqtok.lazy import on_first_use

_NAMES = {
    "RVQCodecConfig": "vqtok.models.rvq_codec.configuration_rvq_codec",
    "RVQCodecModel": "vqtok.models.rvq_codec.modeling_rvq_codec",
    "RVQCodecProcessor": "vqtok.models.rvq_codec.audio_processing_rvq_codec",
}

__all__ = list(_NAMES)
__getattr__ = on_first_use(__name__, _NAMES)
