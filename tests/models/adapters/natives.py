"""Small native models with random weights, saved to disk as their own libraries save them."""

from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn

SIDE = 32


def randomize(model: nn.Module) -> nn.Module:
    """Weights that give lively codes: codebooks start at zero or far from the latents."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(("embed_sum", "codebook.weight")):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return model.eval()


def with_live_codebook(model: nn.Module, vq: nn.Module) -> nn.Module:
    """Fills the one codebook of an image model with latents of noise, so that codes differ."""
    latents = []
    hook = vq.quant_conv.register_forward_hook(
        lambda module, inputs, output: latents.append(output)
    )
    noise = torch.rand(1, 3, 2 * SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(4)) * 2 - 1
    sizes = {"image_sizes": [[2 * SIDE, 2 * SIDE]]} if "Emu3" in type(vq).__name__ else {}
    with torch.no_grad():
        vq.eval().encode(noise, **sizes)
        codebook = vq.quantize.embedding.weight
        found = latents[0].transpose(0, 1).flatten(1).T  # [positions, D]
        codebook.copy_(found[torch.arange(len(codebook)) * 3 % len(found)])
    hook.remove()
    return model.eval()


def encodec(stereo: bool = False) -> transformers.EncodecModel:
    """24 kHz mono with bandwidths of 2, 4 and 8 codebooks, or 48 kHz stereo in chunks of 0.1 s."""
    options = {"sampling_rate": 24_000, "target_bandwidths": [2.4, 4.8, 9.6]}
    if stereo:
        options = {
            "sampling_rate": 48_000,
            "target_bandwidths": [4.8, 9.6, 19.2],
            "audio_channels": 2,
            "normalize": True,
            "chunk_length_s": 0.1,
            "overlap": 0.01,
            "norm_type": "time_group_norm",
            "use_causal_conv": False,
        }
    torch.manual_seed(0)
    config = transformers.EncodecConfig(
        hidden_size=16,
        num_filters=4,
        upsampling_ratios=[5, 4, 2, 2],
        codebook_size=16,
        codebook_dim=16,
        num_lstm_layers=1,
        **options,
    )
    model = transformers.EncodecModel(config).eval()
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(1, config.audio_channels, 4800, generator=generator)
    with torch.no_grad():
        latents = model.encoder(noise)[0].T  # [frames, D]
        for layer in model.quantizer.layers:
            chosen = latents[torch.randperm(len(latents), generator=generator)[:16]]
            layer.codebook.embed.copy_(chosen)
            codes = layer.codebook.encode(latents)
            latents = latents - layer.codebook.decode(codes)
    return model


def dac(sample_rate_hz: int = 16_000) -> transformers.DacModel:
    torch.manual_seed(0)
    config = transformers.DacConfig(
        encoder_hidden_size=4,
        decoder_hidden_size=16,
        downsampling_ratios=[2, 4, 5],
        n_codebooks=5,
        codebook_size=32,
        codebook_dim=4,
        sampling_rate=sample_rate_hz,
    )
    return randomize(transformers.DacModel(config))


def mimi(semantic: int = 1) -> transformers.MimiModel:
    torch.manual_seed(0)
    config = transformers.MimiConfig(
        sampling_rate=24_000,
        hidden_size=16,
        num_filters=4,
        upsampling_ratios=[8, 6, 5, 4],
        codebook_size=32,
        codebook_dim=8,
        vector_quantization_hidden_dimension=8,
        num_quantizers=6,
        num_semantic_quantizers=semantic,
        num_hidden_layers=1,
        intermediate_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        upsample_groups=16,
    )
    return randomize(transformers.MimiModel(config))


def xcodec2() -> transformers.Xcodec2Model:
    torch.manual_seed(0)
    semantic = transformers.Wav2Vec2BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        feature_projection_input_dim=160,
        conv_depthwise_kernel_size=3,
    )
    config = transformers.Xcodec2Config(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        encoder_hidden_size=4,
        downsampling_ratios=[2, 2, 4, 4, 5],
        semantic_model_config=semantic,
        quantization_dim=48,
        quantization_levels=[4, 4, 4],
    )
    model = transformers.Xcodec2Model(config).eval()
    latents = []
    hook = model.quantizer.project_in.register_forward_hook(lambda *call: latents.append(call[2]))
    noise = np.random.default_rng(4).standard_normal(8000).astype(np.float32)
    noise *= np.linspace(0.02, 0.5, 8000, dtype=np.float32)
    extractor = transformers.Xcodec2FeatureExtractor()
    with torch.no_grad():
        model.encode(**extractor(audio=noise, sampling_rate=16_000, return_tensors="pt"))
        std, mean = torch.std_mean(latents[0], dim=(0, 1))
        project = model.quantizer.project_in
        project.bias.copy_((project.bias - mean) / std)
        project.weight.div_(std[:, None])
    hook.remove()
    return model


def chameleon_vq_config() -> transformers.ChameleonVQVAEConfig:
    return transformers.ChameleonVQVAEConfig(
        embed_dim=8,
        num_embeddings=64,
        latent_channels=8,
        resolution=SIDE,
        base_channels=32,
        channel_multiplier=[1, 1, 2],
        num_res_blocks=1,
    )


def chameleon_vq() -> transformers.ChameleonVQVAE:
    torch.manual_seed(0)
    model = transformers.ChameleonVQVAE(chameleon_vq_config())
    return with_live_codebook(model, model)


def chameleon() -> transformers.ChameleonForConditionalGeneration:
    torch.manual_seed(0)
    names = {"<image>": 4} | {
        f"IMGIMG{chr(65 + i // 8)}{chr(65 + i % 8)}Z": i + 8 for i in range(64)
    }
    config = transformers.ChameleonConfig(
        vocab_size=80,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocabulary_map=names,
        vq_config=chameleon_vq_config().to_dict(),
    )
    model = transformers.ChameleonForConditionalGeneration(config)
    return with_live_codebook(model, model.model.vqmodel)


def emu3_vq_config() -> transformers.Emu3VQVAEConfig:
    return transformers.Emu3VQVAEConfig(
        codebook_size=64,
        embed_dim=4,
        latent_channels=4,
        base_channels=32,
        channel_multiplier=[1, 1, 1],
        num_res_blocks=1,
        attn_resolutions=[2],
        hidden_size=32,
    )


def emu3_vq() -> transformers.Emu3VQVAE:
    torch.manual_seed(0)
    model = transformers.Emu3VQVAE(emu3_vq_config())
    return with_live_codebook(model, model)


def emu3() -> transformers.Emu3ForConditionalGeneration:
    torch.manual_seed(0)
    names = {"<image>": 4, "<|extra_200|>": 5}
    names |= {f"<|visual token {i:06d}|>": i + 8 for i in range(64)}
    text = transformers.Emu3TextConfig(
        vocab_size=80,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = transformers.Emu3Config(
        vq_config=emu3_vq_config().to_dict(), text_config=text.to_dict(), vocabulary_map=names
    )
    model = transformers.Emu3ForConditionalGeneration(config)
    return with_live_codebook(model, model.model.vqmodel)


def janus_vq_config() -> transformers.JanusVQVAEConfig:
    return transformers.JanusVQVAEConfig(
        embed_dim=8,
        num_embeddings=64,
        latent_channels=8,
        base_channels=32,
        channel_multiplier=[1, 1, 2],
        num_res_blocks=1,
        num_patches=SIDE // 4,
        projection_dim=16,
        image_token_embed_dim=16,
    )


def janus_vq() -> transformers.JanusVQVAE:
    torch.manual_seed(0)
    model = transformers.JanusVQVAE(janus_vq_config())
    return with_live_codebook(model, model)


def janus() -> transformers.JanusForConditionalGeneration:
    torch.manual_seed(0)
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16}
    text = transformers.LlamaConfig(
        vocab_size=80, intermediate_size=16, num_key_value_heads=2, **layers
    )
    vision = transformers.JanusVisionConfig(
        image_size=SIDE, patch_size=4, projection_dim=16, num_image_tokens=4, **layers
    )
    config = transformers.JanusConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        vq_config=janus_vq_config().to_dict(),
        image_token_id=3,
    )
    model = transformers.JanusForConditionalGeneration(config)
    return with_live_codebook(model, model.model.vqmodel)


def save(model: nn.Module, folder: Path, processor=None) -> Path:
    """As the family's own library writes a repository."""
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder
