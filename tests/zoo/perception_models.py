"""Architectures of the zoo that see and hear."""

from __future__ import annotations

from typing import Any

import torch

from tests.zoo.architecture import (
    DECODER,
    ENCODER,
    IMAGE,
    SEQ2SEQ,
    SPEECH,
    VOCABULARY,
    Architecture,
    Inputs,
    audio,
    captions,
    pixels,
    tokens,
)


def vision() -> list[Architecture]:
    def conv(model: str, options: dict[str, Any], **rest: Any) -> Architecture:
        config = model.removesuffix("Model") + "Config"
        rest = {"pattern": "*.bias", **rest}
        return Architecture("convolutional", model, config, options, pixels(32), **rest)

    def image(model: str, more: dict[str, Any] | None = None, **rest: Any) -> Architecture:
        config = model.removesuffix("Model") + "Config"
        return Architecture(
            "vision transformer", model, config, {**IMAGE, **(more or {})}, pixels(), **rest
        )

    stages = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
    next_ = {"hidden_sizes": [4, 8], "depths": [1, 1], "num_stages": 2, "patch_size": 4}
    windows = {"embed_dim": 4, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
    windows |= {"image_size": 16, "patch_size": 2}
    return [
        conv("ResNetModel", {**stages, "layer_type": "basic"}, fast=True),
        conv("RegNetModel", {**stages, "groups_width": 4}),
        conv("ConvNextModel", next_),
        conv("ConvNextV2Model", next_),
        conv(
            "MobileNetV2Model", {"depth_multiplier": 0.1, "min_depth": 4, "depth_divisible_by": 4}
        ),
        conv(
            "PoolFormerModel",
            {
                "hidden_sizes": [4, 8],
                "depths": [1, 1],
                "num_encoder_blocks": 2,
                "patch_sizes": [3, 3],
                "strides": [4, 2],
                "padding": [1, 1],
            },
        ),
        image("ViTModel", fast=True, pattern="*.attention.*"),
        image("DeiTModel"),
        image("BeitModel", {"use_relative_position_bias": True}),
        image("Dinov2Model"),
        image("ViTMSNModel"),
        image("SiglipVisionModel"),
        Architecture("vision transformer", "SwinModel", "SwinConfig", windows, pixels()),
        Architecture("vision transformer", "Swinv2Model", "Swinv2Config", windows, pixels()),
        Architecture(
            "vision transformer",
            "SegformerModel",
            "SegformerConfig",
            {
                "num_encoder_blocks": 2,
                "depths": [1, 1],
                "hidden_sizes": [4, 8],
                "num_attention_heads": [1, 2],
                "sr_ratios": [2, 1],
                "patch_sizes": [3, 3],
                "strides": [2, 2],
                "mlp_ratios": [2, 2],
            },
            pixels(),
        ),
    ]


def audio_models() -> list[Architecture]:
    def one(model: str, more: dict[str, Any] | None = None, **rest: Any) -> Architecture:
        config = model.removesuffix("Model") + "Config"
        return Architecture("audio", model, config, {**SPEECH, **(more or {})}, audio, **rest)

    def mel(*lead: int, dtype: torch.dtype) -> dict[str, Any]:
        return {
            "input_features": torch.randn(*lead, 2, 6, 20, dtype=dtype),
            "decoder_input_ids": torch.randint(3, VOCABULARY, (*lead, 2, 4)),
        }

    def spectrogram(*lead: int, dtype: torch.dtype) -> dict[str, Any]:
        return {"input_values": torch.randn(*lead, 2, 16, 8, dtype=dtype)}

    whisper = {**SEQ2SEQ, "num_mel_bins": 6, "max_source_positions": 10, "max_target_positions": 8}
    return [
        one("Wav2Vec2Model", fast=True),
        one("HubertModel"),
        one("WavLMModel", {"num_buckets": 8, "max_bucket_distance": 8}),
        one("UniSpeechModel"),
        one("SEWModel", {"squeeze_factor": 2}),
        one("Data2VecAudioModel", {"num_conv_pos_embeddings": 1, "conv_pos_kernel_size": 3}),
        Architecture("audio", "WhisperModel", "WhisperConfig", whisper, mel),
        Architecture(
            "audio",
            "ASTModel",
            "ASTConfig",
            {
                **IMAGE,
                "patch_size": 4,
                "frequency_stride": 4,
                "time_stride": 4,
                "max_length": 16,
                "num_mel_bins": 8,
            },
            spectrogram,
        ),
    ]


def multimodal() -> list[Architecture]:
    text = {**ENCODER, "eos_token_id": 2, "bos_token_id": 1, "projection_dim": 6}
    both = {
        "text_config": text,
        "vision_config": dict(IMAGE, projection_dim=6),
        "projection_dim": 6,
    }

    def one(model: str, options: dict[str, Any], inputs: Inputs, **rest: Any) -> Architecture:
        config = model.split("For")[0].removesuffix("Model") + "Config"
        return Architecture("multimodal", model, config, options, inputs, **rest)

    def boxes(*lead: int, dtype: torch.dtype) -> dict[str, Any]:
        made = tokens(*lead, dtype=dtype)
        return {**made, "bbox": torch.randint(0, 15, (*lead, 2, 5, 1)).expand(*lead, 2, 5, 4)}

    def with_image_tokens(*lead: int, dtype: torch.dtype) -> dict[str, Any]:
        ids = torch.randint(3, VOCABULARY - 1, (*lead, 2, 8))
        ids[..., 1:5] = VOCABULARY - 1
        return {"input_ids": ids, **pixels()(*lead, dtype=dtype)}

    llava = {
        "text_config": {**DECODER, "model_type": "llama"},
        "vision_config": {**IMAGE, "model_type": "clip_vision_model", "projection_dim": 6},
        "image_token_id": VOCABULARY - 1,
        "vision_feature_layer": -1,
    }
    return [
        one("CLIPModel", both, captions(), fast=True, pattern="text_model.*"),
        one("SiglipModel", both, captions(), pattern="text_model.*"),
        one("ChineseCLIPModel", both, captions(), pattern="text_model.*"),
        one("ViltModel", {**ENCODER, **IMAGE, "max_image_length": -1}, captions()),
        one("GitModel", {**DECODER, "vision_config": IMAGE}, captions()),
        one("LlavaModel", llava, with_image_tokens, pattern="*.mlp.*"),
        one("LayoutLMModel", {**ENCODER, "max_2d_position_embeddings": 16}, boxes),
        one("BlipModel", {**both, "image_text_hidden_size": 6}, captions(), pattern="text_model.*"),
    ]
