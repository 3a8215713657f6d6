"""Language models of several families, at random, and batches of tokens for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MODELS = ("llama-13m", "llama-90m", "gpt2", "t5", "llama-d128")
VOCABULARY = 4096


def model_of(name: str, tiny: bool) -> Any:
    """Return a model in eval mode, its numbers at random, frozen."""
    import transformers as tr

    vocabulary = 64 if tiny else VOCABULARY
    if name.startswith("llama"):
        width, inner, layers, heads = {
            "llama-13m": (384, 1024, 6, 6),
            "llama-90m": (768, 2048, 12, 12),
            "llama-d128": (128, 512, 4, 4),
        }[name]
        if tiny:
            width, inner, layers, heads = 16, 24, 2, 2
        config: Any = tr.LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=512,
        )
        model: Any = tr.LlamaForCausalLM(config)
    elif name == "gpt2":
        width, layers, heads = (16, 2, 2) if tiny else (384, 6, 6)
        config = tr.GPT2Config(
            vocab_size=vocabulary,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            n_positions=512,
            bos_token_id=1,
            eos_token_id=2,
        )
        model = tr.GPT2LMHeadModel(config)
    else:
        width, inner, layers, heads = (16, 24, 2, 2) if tiny else (256, 1024, 4, 4)
        config = tr.T5Config(
            vocab_size=vocabulary,
            d_model=width,
            d_ff=inner,
            d_kv=width // heads,
            num_layers=layers,
            num_heads=heads,
            decoder_start_token_id=0,
        )
        model = tr.T5ForConditionalGeneration(config)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None  # all go on for as long
    return model.eval().requires_grad_(False)


def layers_of(model: Any, which: str) -> list[str]:
    """Return the paths of the linear layers that are adapted: of q and v, or of all but the last.

    GPT-2 has one layer for q, k and v.
    """
    from transformers.pytorch_utils import Conv1D

    found = [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))]
    found = [n for n in found if not n.endswith("lm_head")]
    if which == "all":
        return found
    ends = ("q_proj", "v_proj", "c_attn", ".q", ".v")
    return [n for n in found if n.endswith(ends)]


@dataclass(frozen=True)
class Tokens:
    """A batch, a row for each condition.

    Attributes:
        inputs: What the model is called with, `(B, T)`.
        mask: Which places of the output count, `(B, T)`.
    """

    inputs: dict[str, Tensor]
    mask: Tensor

    def row(self, i: int) -> dict[str, Tensor]:
        """Return the inputs of one condition, `(1, T)`."""
        return {name: value[i : i + 1] for name, value in self.inputs.items()}

    def apart(self) -> dict[str, Tensor]:
        """Return the inputs with an axis for the rows of each condition, `(B, 1, T)`."""
        return {name: value.unsqueeze(1) for name, value in self.inputs.items()}

    @property
    def prompt(self) -> dict[str, Tensor]:
        """What generation starts from."""
        return {name: v for name, v in self.inputs.items() if name != "decoder_input_ids"}


def tokens_of(model: Any, num: int, length: int, padded: bool) -> Tokens:
    """Return a batch; padded on the left, each row by another length, where it is padded."""
    device = next(model.parameters()).device
    size = model.config.vocab_size
    ids = torch.randint(3, size, (num, length), device=device)
    mask = torch.ones_like(ids)
    if padded:
        cut = torch.arange(num, device=device) * (length // 2) // num + 1
        mask = (torch.arange(length, device=device) >= cut[:, None]).to(ids.dtype)
    inputs = {"input_ids": ids * mask}
    if padded:
        inputs["attention_mask"] = mask
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(3, size, (num, length), device=device)
        mask = torch.ones_like(mask)
    return Tokens(inputs, mask)
