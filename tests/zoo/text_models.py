"""Architectures of the zoo that read text, in all their kinds."""

from __future__ import annotations

from typing import Any

from tests.zoo.architecture import (
    DECODER,
    ENCODER,
    SEQ2SEQ,
    VOCABULARY,
    Architecture,
    pairs,
    tokens,
)


def encoders() -> list[Architecture]:
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


def decoders() -> list[Architecture]:
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


def mixtures() -> list[Architecture]:
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


def state_spaces() -> list[Architecture]:
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


def seq2seq() -> list[Architecture]:
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
