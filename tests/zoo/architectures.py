"""The table of architectures: models of the transformers library, tiny, with random weights.

Nothing is downloaded: every model is built from a configuration.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

VOCABULARY = 19
Inputs = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        kind: What it is, for the table.
        model: Name of the model's class in transformers.
        config: Name of its configuration's class.
        options: The configuration's arguments.
        inputs: Returns keyword inputs with the leading dimensions it is given.
        pattern: What is generated where only a part is.
        single: Why it is compared in float32; empty where float64 goes through.
        eval_only: Why it is not run in training mode; empty if it is.
        fast: Whether the default test suite runs it.
    """

    kind: str
    model: str
    config: str
    options: dict[str, Any]
    inputs: Inputs
    pattern: str = "*.bias"
    single: str = ""
    eval_only: str = ""
    fast: bool = False

    @property
    def name(self) -> str:
        return self.model

    def make(self) -> nn.Module:
        """Build the model, with random weights."""
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.options)
        config._experts_implementation = "eager"  # the grouped product has no float64
        return without_dropout(getattr(transformers, self.model)(config))


def tokens(*lead: int, dtype: torch.dtype) -> dict[str, Any]:
    return {"input_ids": torch.randint(3, VOCABULARY, (*lead, 2, 5))}


def pairs(*lead: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return inputs of an encoder and of a decoder."""
    made = torch.randint(3, VOCABULARY, (*lead, 2, 9))
    return {"input_ids": made[..., :5], "decoder_input_ids": made[..., 5:]}


def pixels(size: int = 16, channels: int = 3) -> Inputs:
    return lambda *lead, dtype: {
        "pixel_values": torch.randn(*lead, 2, channels, size, size, dtype=dtype)
    }


def audio(*lead: int, dtype: torch.dtype) -> dict[str, Any]:
    return {"input_values": torch.randn(*lead, 2, 400, dtype=dtype)}


def captions(size: int = 16) -> Inputs:
    def make(*lead: int, dtype: torch.dtype) -> dict[str, Any]:
        return {**tokens(*lead, dtype=dtype), **pixels(size)(*lead, dtype=dtype)}

    return make


ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 20,
    "pad_token_id": 0,
}
DECODER: dict[str, Any] = {
    **ENCODER,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "use_cache": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SEQ2SEQ: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
    "max_position_embeddings": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
    "use_cache": False,
}
IMAGE: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "image_size": 16,
    "patch_size": 8,
}
SPEECH: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "conv_dim": (4, 4),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 4),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}


def _encoders() -> list[Architecture]:
    def one(model: str, more: dict[str, Any] | None = None, **rest: Any) -> Architecture:
        config = model.removesuffix("Model") + "Config"
        return Architecture("encoder", model, config, {**ENCODER, **(more or {})}, tokens, **rest)

    modern = {"global_attn_every_n_layers": 2, "local_attention": 4}
    dim = {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 12, "vocab_size": VOCABULARY}
    return [
        one("BertModel", fast=True, pattern="*.attention.*"),
        one("RobertaModel"),
        Architecture("encoder", "DistilBertModel", "DistilBertConfig", dim, tokens),
        one("AlbertModel", {"embedding_size": 4}),
        one("ElectraModel", {"embedding_size": 4}),
        one("DebertaV2Model", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
        one("MPNetModel"),
        one("ConvBertModel", {"embedding_size": 8, "conv_kernel_size": 3, "head_ratio": 1}),
        one("SqueezeBertModel", {"embedding_size": 8}),
        one("ModernBertModel", modern, pattern="*.mlp.*"),
        one("NystromformerModel", {"num_landmarks": 1, "segment_means_seq_len": 5}),
        one("FNetModel"),
        one("RoFormerModel", {"embedding_size": 8}),
        one("EsmModel", {"position_embedding_type": "rotary", "mask_token_id": 3}),
        one("MegatronBertModel"),
        one("BigBirdModel", {"attention_type": "original_full"}),
        one("XLMRobertaModel"),
        one("IBertModel"),
        one("YosoModel", {"use_expectation": True}),
    ]


def _decoders() -> list[Architecture]:
    def one(model: str, more: dict[str, Any] | None = None, **rest: Any) -> Architecture:
        config = model.removesuffix("ForCausalLM").removesuffix("Model") + "Config"
        return Architecture("decoder", model, config, {**DECODER, **(more or {})}, tokens, **rest)

    old = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 20, "vocab_size": VOCABULARY}
    old |= {"use_cache": False, "n_inner": 12, "bos_token_id": 1, "eos_token_id": 2}
    falcon = {key: value for key, value in DECODER.items() if key != "head_dim"}
    xglm = {"d_model": 8, "ffn_dim": 12, "num_layers": 1, "attention_heads": 2}
    turned = {"rotary_dim": 2}
    neo = {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
    return [
        Architecture(
            "decoder", "GPT2LMHeadModel", "GPT2Config", old, tokens, "*.attn.*", fast=True
        ),
        Architecture("decoder", "GPTJModel", "GPTJConfig", old | turned, tokens),
        Architecture(
            "decoder", "CodeGenModel", "CodeGenConfig", old | turned | {"n_head": 4}, tokens
        ),
        Architecture("decoder", "GPTNeoModel", "GPTNeoConfig", DECODER | neo, tokens),
        one("GPTNeoXModel"),
        one("OPTModel", {"ffn_dim": 12, "word_embed_proj_dim": 8}),
        Architecture(
            "decoder",
            "BloomModel",
            "BloomConfig",
            {
                "vocab_size": VOCABULARY,
                "hidden_size": 8,
                "n_layer": 1,
                "n_head": 2,
                "use_cache": False,
            },
            tokens,
        ),
        one("LlamaForCausalLM", pattern="*.self_attn.*", fast=True),
        one("MistralModel", pattern="*.mlp.*"),
        one("Qwen2Model"),
        one("Qwen3Model", pattern="*.mlp.*"),
        one("GemmaModel", pattern="*.mlp.*"),
        one("Gemma2Model", pattern="*.mlp.*"),
        one("PhiModel"),
        one("Phi3Model", pattern="*.mlp.*"),
        Architecture("decoder", "FalconModel", "FalconConfig", falcon, tokens),
        Architecture(
            "decoder",
            "MptModel",
            "MptConfig",
            {
                "d_model": 8,
                "n_heads": 2,
                "n_layers": 1,
                "vocab_size": VOCABULARY,
                "use_cache": False,
            },
            tokens,
            "*.ffn.*",
        ),
        one("StableLmModel", pattern="*.mlp.*"),
        one("OlmoModel", pattern="*.mlp.*"),
        one("Olmo2Model", pattern="*.mlp.*"),
        one("CohereModel", pattern="*.mlp.*"),
        one("GraniteModel", pattern="*.mlp.*"),
        one("Starcoder2Model"),
        one("XGLMModel", xglm, single="its mask is filled with a number of float32"),
    ]


def _mixtures() -> list[Architecture]:
    def one(model: str, more: dict[str, Any], **rest: Any) -> Architecture:
        options = {**DECODER, "num_experts_per_tok": 2, **more}
        rest = {"pattern": "*.mlp.*", **rest}
        config = model.removesuffix("ForCausalLM").removesuffix("Model") + "Config"
        return Architecture("mixture of experts", model, config, options, tokens, **rest)

    experts = {"num_experts": 4, "moe_intermediate_size": 6}
    return [
        one("MixtralModel", {"num_local_experts": 4}, fast=True),
        one("Qwen2MoeModel", {**experts, "shared_expert_intermediate_size": 6}),
        one("Qwen3MoeModel", experts),
        one("OlmoeModel", {"num_experts": 4}),
        one("GraniteMoeModel", {"num_local_experts": 4}, pattern="*.experts.*"),
        one("GptOssModel", {"num_local_experts": 4}),
        one(
            "PhimoeModel", {"num_local_experts": 4}, eval_only="its router draws experts at random"
        ),
        Architecture(
            "mixture of experts",
            "SwitchTransformersModel",
            "SwitchTransformersConfig",
            {
                "vocab_size": VOCABULARY,
                "d_model": 8,
                "d_kv": 4,
                "d_ff": 12,
                "num_layers": 2,
                "num_decoder_layers": 2,
                "num_heads": 2,
                "num_experts": 3,
                "expert_capacity": 8,
                "decoder_start_token_id": 0,
                "use_cache": False,
            },
            pairs,
            pattern="*.mlp.*",
        ),
    ]


def _state_spaces() -> list[Architecture]:
    def one(model: str, options: dict[str, Any], **rest: Any) -> Architecture:
        config = model.removesuffix("Model") + "Config"
        base = {"vocab_size": VOCABULARY, "hidden_size": 8, "use_cache": False, "pad_token_id": 0}
        return Architecture("state space", model, config, {**base, **options}, tokens, **rest)

    mamba = {"state_size": 4, "num_hidden_layers": 1, "time_step_rank": 2, "expand": 2}
    heads = {"num_heads": 4, "head_dim": 4, "n_groups": 1, "state_size": 4, "chunk_size": 4}
    hybrid = {**DECODER, "mamba_d_state": 4, "mamba_dt_rank": 2, "use_mamba_kernels": False}
    return [
        one("MambaModel", mamba, fast=True, pattern="*.mixer.*"),
        one("FalconMambaModel", mamba),
        one("Mamba2Model", {**heads, "num_hidden_layers": 1}),
        one(
            "JambaModel",
            {**hybrid, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2},
        ),
        one(
            "RwkvModel",
            {
                "attention_hidden_size": 8,
                "rescale_every": 0,
                "num_hidden_layers": 2,
                "intermediate_size": 12,
            },
            pattern="*.key.*",
        ),
        one("RecurrentGemmaModel", {**DECODER, "lru_width": 8, "attention_window_size": 4}),
        one("Lfm2Model", {**DECODER, "full_attn_idxs": [1], "conv_L_cache": 3}, pattern="*.conv.*"),
    ]


def _seq2seq() -> list[Architecture]:
    def one(model: str, more: dict[str, Any] | None = None, **rest: Any) -> Architecture:
        config = model.removesuffix("Model") + "Config"
        return Architecture(
            "encoder-decoder", model, config, {**SEQ2SEQ, **(more or {})}, pairs, **rest
        )

    t5 = {"vocab_size": VOCABULARY, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1}
    t5 |= {"num_heads": 2, "decoder_start_token_id": 0, "use_cache": False}
    return [
        Architecture("encoder-decoder", "T5Model", "T5Config", t5, pairs, "decoder.*", fast=True),
        Architecture("encoder-decoder", "UMT5Model", "UMT5Config", t5, pairs, "decoder.*"),
        one("BartModel"),
        one("PegasusModel"),
        one("MarianModel"),
        one("MBartModel"),
        one("BlenderbotSmallModel"),
        one("M2M100Model"),
    ]


def _vision() -> list[Architecture]:
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


def _audio() -> list[Architecture]:
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


def _multimodal() -> list[Architecture]:
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


ARCHITECTURES = [
    *_encoders(),
    *_decoders(),
    *_mixtures(),
    *_state_spaces(),
    *_seq2seq(),
    *_vision(),
    *_audio(),
    *_multimodal(),
]


def without_dropout(model: nn.Module) -> nn.Module:
    """Set every rate of dropout to 0: a loop would draw other numbers than a batch does."""
    for module in model.modules():
        for key, value in vars(module).items():
            if isinstance(value, float) and ("drop" in key or isinstance(module, nn.Dropout)):
                setattr(module, key, 0.0)
    return model


def logits(outputs: Any) -> Tensor:
    """Return the first floating tensor of a model's outputs."""
    from torch.utils._pytree import tree_leaves

    return next(t for t in tree_leaves(outputs) if isinstance(t, Tensor) and t.is_floating_point())
