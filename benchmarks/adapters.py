"""Low-rank adapters of language models, a condition for each row of a batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor

import hyperloom.torch as hl
from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload, within
from benchmarks._language import MODELS, layers_of, model_of, tokens_of

RANK, LENGTH, NEW, SCALE, TOLERANCE = 8, 64, 32, 2.0, 1e-4
ALONE, LOOP, HOOKS = "base alone", "PEFT, one after the other", "hooks by hand"
MODES = ("inference", "training", "generation")


@dataclass(frozen=True)
class Cell:
    """A row of the table: a model, what of it is adapted, the batch, and what is done with it."""

    model: str
    which: str
    padded: bool
    num: int
    mode: str

    @property
    def key(self) -> str:
        padding = "padded" if self.padded else "no mask"
        return f"{self.model}, {self.which}, {padding}, B {self.num}, {self.mode}"


def _some() -> list[Cell]:
    """Return the cells of a run that names none."""
    small = [Cell("llama-13m", "all", True, num, mode) for num in (1, 8, 32) for mode in MODES]
    small += [Cell("llama-13m", "q,v", True, 8, mode) for mode in MODES]
    small += [Cell("llama-13m", "all", False, 8, mode) for mode in MODES]
    small += [Cell(name, "all", True, 8, mode) for name in ("gpt2", "t5") for mode in MODES]
    return [*small, Cell("llama-d128", "q,v", True, 8, "training")]


def cells(setting: Setting) -> list[Cell]:
    """Return what is measured: some cells, or all whose keys fit what is asked for."""
    if setting.tiny:
        small = [Cell(name, "all", True, 3, "training") for name in ("llama-13m", "gpt2", "t5")]
        return [*small, *(Cell("llama-13m", "q,v", True, 3, mode) for mode in MODES)]
    if not setting.only:
        return _some()
    every = itertools.product(MODELS, ("q,v", "all"), (True, False), (1, 8, 32), MODES)
    return [cell for cell in itertools.starmap(Cell, every) if fnmatch(cell.key, setting.only)]


class Problem:
    """One cell: the model, its adapters, and the numbers that all contestants share."""

    def __init__(self, cell: Cell, setting: Setting) -> None:
        torch.manual_seed(0)
        self.cell, self.tiny, self.device = cell, setting.tiny, setting.device
        model = self.model()
        self.layers = layers_of(model, cell.which)
        names = [f"{name}.weight" for name in self.layers]
        self.hnet: Any = hl.HyperNetwork(
            model,
            condition=hl.Embedding(max(2, cell.num), 1),
            layout=dict.fromkeys(names, hl.PerCondition()),
            form=dict.fromkeys(names, hl.LoRA(RANK, alpha=RANK * SCALE)),
        ).to(self.device)
        self.hnet.eval()
        self.table: Any = self.hnet.heads["per_condition"].table[0]
        with torch.no_grad():
            self.table.normal_(std=0.05)
        self.places = self._places()
        self.factors = self._factors()
        length = 48 if cell.model == "llama-d128" else LENGTH
        self.tokens = tokens_of(model, cell.num, 8 if self.tiny else length, cell.padded)
        self.new = 3 if self.tiny else NEW
        self.g = torch.randn(*self.tokens.mask.shape, model.config.vocab_size, device=self.device)
        self.g *= self.tokens.mask.unsqueeze(-1)

    def model(self) -> Any:
        """Return the model, always with the same numbers."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(1)
            return model_of(self.cell.model, self.tiny).to(self.device)

    def _places(self) -> dict[str, tuple[slice, slice]]:
        """Return where the factors of each layer stand in a row of the table."""
        places = {}
        for entry in self.hnet.plan.entries:
            u, v = (slice(p.start, p.start + math.prod(p.shape)) for p in entry.pieces)
            places[entry.tensor.removesuffix(".weight")] = (u, v)
        return places

    def _factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return U `(B, n, rank)` and V `(B, rank, m)` of each layer, leaves for those by hand."""
        shapes = {e.tensor.removesuffix(".weight"): e.pieces for e in self.hnet.plan.entries}
        found = {}
        for name, places in self.places.items():
            parts = zip(places, shapes[name], strict=True)
            values = [
                self.table[: self.cell.num, place].reshape(-1, *piece.shape)
                for place, piece in parts
            ]
            u, v = (value.detach().clone().requires_grad_() for value in values)
            found[name] = (u, v)
        return found

    def in_table(self, gradients: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        """Return gradients of factors as they stand in the table, `(B, numbers)`."""
        whole = self.table.new_zeros(self.cell.num, self.table.shape[1])
        for name, values in gradients.items():
            for place, value in zip(self.places[name], values, strict=True):
                whole[:, place] = value.flatten(1)
        return whole

    def results(self, made: Any) -> dict[str, Tensor]:
        """Return what contestants must agree on."""
        if self.cell.mode == "generation":
            return {"tokens": made.double() + 1}
        if self.cell.mode == "inference":
            return {"logits": self._counted(made)}
        return {"logits": self._counted(made[0]), "gradient": made[1]}

    def _counted(self, logits: Tensor) -> Tensor:
        return logits.reshape(self.g.shape) * self.tokens.mask.unsqueeze(-1)

    def options(self) -> dict[str, Any]:
        return {"max_new_tokens": self.new, "min_new_tokens": self.new, "do_sample": False}


# ---- contestants --------------------------------------------------------------------------------


def _ours(p: Problem) -> Contestant:
    one = p.cell.num == 1
    condition: Any = 0 if one else torch.arange(p.cell.num, device=p.device)
    inputs = p.tokens.inputs if one else p.tokens.apart()

    def run() -> Tensor:
        return p.hnet(**inputs, condition=condition).logits

    def train() -> Any:
        logits = run()
        (gradient,) = torch.autograd.grad(logits, [p.table], p.g.reshape(logits.shape))
        return logits, gradient[: p.cell.num]

    @torch.no_grad()
    def generate() -> Tensor:
        net = p.hnet.bind(condition, **({} if one else {"rows": condition}))
        return net.generate(**p.tokens.prompt, **p.options())

    def note() -> str:
        return saved(train) if p.cell.mode == "training" else "–"

    step = {"inference": torch.no_grad()(run), "training": train, "generation": generate}
    return Contestant("hyperloom", step[p.cell.mode], p.results, "ours", note)


def _in_one_go(p: Problem, name: str, model: Any, leaves: Any, role: Any = "opponent") -> Any:
    """Return the contestant that runs a model on all rows; `leaves` are differentiated for."""

    def run() -> Tensor:
        return model(**p.tokens.inputs).logits

    def train() -> Any:
        logits = run()
        gradients = iter(torch.autograd.grad(logits, leaves(), p.g))
        if role == "reference":
            return logits, next(gradients)
        return logits, p.in_table({name: (next(gradients), next(gradients)) for name in p.layers})

    @torch.no_grad()
    def generate() -> Tensor:
        return model.generate(**p.tokens.prompt, **p.options())

    def note() -> str:
        return saved(train) if p.cell.mode == "training" else "–"

    step = {"inference": torch.no_grad()(run), "training": train, "generation": generate}
    results = None if role == "reference" else p.results
    return Contestant(name, step[p.cell.mode], results, role, note)


def _base(p: Problem) -> Contestant:
    """The model without adapters; its gradient is that of its embedded tokens."""
    model: Any = p.model()
    embedded: list[Tensor] = []

    def keep(module: Any, args: Any, output: Tensor) -> None:
        if torch.is_grad_enabled():
            embedded.append(output.requires_grad_())

    def taken() -> list[Tensor]:
        now = list(embedded)
        embedded.clear()
        return now

    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and len(module.weight) == model.config.vocab_size:
            module.register_forward_hook(keep)
    return _in_one_go(p, ALONE, model, taken, "reference")


def _hooks(p: Problem) -> Contestant:
    model = p.model()
    leaves = [factor for name in p.layers for factor in p.factors[name]]
    for name in p.layers:
        layer, (u, v) = model.get_submodule(name), p.factors[name]
        layer.register_forward_hook(_hook(u, v, layer))
    return _in_one_go(p, HOOKS, model, lambda: leaves)


def _hook(u: Tensor, v: Tensor, layer: Any) -> Callable[..., Tensor]:
    """Return the hook of one layer; a layer of GPT-2 has its inputs first, `W = U V (in, out)`."""
    straight = isinstance(layer, torch.nn.Linear)
    first, second = (v.mT, u.mT) if straight else (u, v)

    def add(module: Any, args: Any, output: Tensor) -> Tensor:
        x = args[0]
        blocks = x.reshape(u.shape[0], -1, x.shape[-1])
        low = torch.bmm(blocks, first) * SCALE
        return output + torch.bmm(low, second).view_as(output)

    return add


def _peft(p: Problem) -> tuple[Any, dict[str, list[tuple[Tensor, Tensor]]]]:
    """Return the model with an adapter for each condition, and their A and B by layer."""
    import peft

    model: Any = p.model()
    config = peft.LoraConfig(r=RANK, lora_alpha=int(RANK * SCALE), target_modules=p.layers)
    config.fan_in_fan_out = p.cell.model == "gpt2"
    wrapped: Any = peft.get_peft_model(model, config, adapter_name="0")
    for i in range(1, p.cell.num):
        wrapped.add_adapter(str(i), config)
    found = {}
    for name in p.layers:
        layer, (u, v) = model.get_submodule(name), p.factors[name]
        first, second = (v, u) if p.cell.model != "gpt2" else (u.mT, v.mT)
        pairs = []
        for i in range(p.cell.num):
            a, b = layer.lora_A[str(i)].weight, layer.lora_B[str(i)].weight
            with torch.no_grad():
                a.copy_(first[i])
                b.copy_(second[i])
            pairs.append((a, b))
        found[name] = pairs
    return wrapped.eval(), found


def _loop(p: Problem) -> Contestant:
    model, adapters = _peft(p)
    turned = p.cell.model == "gpt2"

    def each() -> Any:
        for i in range(p.cell.num):
            if p.cell.num > 1:
                model.set_adapter(str(i))
            yield i

    @torch.no_grad()
    def run() -> Tensor:
        return torch.cat([model(**p.tokens.row(i)).logits for i in each()])

    def train() -> Any:
        logits, found = [], []
        for i in each():
            leaves = [tensor for name in p.layers for tensor in adapters[name][i]]
            y = model(**p.tokens.row(i)).logits
            found.append(torch.autograd.grad(y, leaves, p.g[i : i + 1]))
            logits.append(y.detach())
        stacked = iter([torch.stack(values) for values in zip(*found, strict=True)])
        pairs = {name: (next(stacked), next(stacked)) for name in p.layers}
        back = {n: (a.mT, b.mT) if turned else (b, a) for n, (a, b) in pairs.items()}
        return torch.cat(logits), p.in_table(back)

    @torch.no_grad()
    def generate() -> Tensor:
        prompts = (
            {k: v for k, v in p.tokens.row(i).items() if k in p.tokens.prompt} for i in each()
        )
        return torch.cat([model.generate(**prompt, **p.options()) for prompt in prompts])

    step = {"inference": run, "training": train, "generation": generate}
    return Contestant(LOOP, step[p.cell.mode], p.results)


def _mixed(p: Problem) -> Contestant:
    model, _ = _peft(p)
    names = [str(i) for i in range(p.cell.num)]

    @torch.no_grad()
    def run() -> Tensor:
        return model(**p.tokens.inputs, adapter_names=names).logits

    @torch.no_grad()
    def generate() -> Tensor:
        return model.generate(**p.tokens.prompt, adapter_names=names, **p.options())

    step = run if p.cell.mode == "inference" else generate
    return Contestant("PEFT, mixed batch", step, p.results)


def saved(step: Callable[[], Any]) -> str:
    """Return the memory that a step saves for its backward pass, as text; parameters aside."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not (tensor.is_leaf or (tensor._base is not None and tensor._base.is_leaf)):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return f"saves {sum(storages.values()) / 1e6:.4g} MB"


def contestants(cell: Cell, setting: Setting) -> list[Contestant]:
    p = Problem(cell, setting)
    found = [_ours(p), _hooks(p), _base(p), _loop(p)]
    # PEFT refuses mixed batches in training.
    return found if cell.mode == "training" or cell.num == 1 else [*found, _mixed(p)]


def workloads(setting: Setting) -> list[Workload]:
    return [
        Workload(
            cell.key,
            lambda c=cell: contestants(c, setting),
            seconds=20,
            memory=cell.mode == "training",
            tolerance=TOLERANCE,
        )
        for cell in cells(setting)
    ]


def judge(results: Results) -> list[Claim]:
    claims = []
    for key, times in results.items():
        *_, batch, mode = key.split(", ")
        num = int(batch.removeprefix("B "))
        if num == 1 and mode != "generation":
            claims.append(within(times, 1.3 if mode == "inference" else 1.6, key, ALONE))
        claims.append(within(times, 1.05, key, HOOKS))
        if mode == "training" and num >= 8:
            value = times[LOOP].median / times["hyperloom"].median
            claims.append(Claim(f"{key}: times faster than {LOOP}", value, least=1.4))
    return claims


def table(workloads: list[Workload], results: Results) -> list[list[str]]:
    """Return a line for each contestant of each cell, beside the base alone."""
    lines = [["cell", "contestant", "ms", "to base alone", "saved for backward", "peak MB"]]
    for workload in workloads:
        times = results[workload.key]
        for name, m in times.items():
            line = [workload.key, name, f"{1e3 * m.median:.4g}"]
            line += [f"{m.median / times[ALONE].median:.2f}", m.note.removeprefix("saves ") or "–"]
            lines.append([*line, f"{m.peak / 1e6:.4g}" if m.peak is not None else "–"])
    return lines


CASE = Case(
    "adapters",
    "Adapters of language models",
    [
        "LoRA of rank 8 for each condition, a row of a batch each, on models of `transformers` "
        f"with weights at random: {LENGTH} tokens a row (48 for llama-d128), padded on the left by "
        "lengths that differ, or without a mask. The factors stand in a table with a row for each "
        "condition. Training is the forward pass and the gradients of all factors for a given "
        f"gradient of the logits; generation is {NEW} tokens, greedily, with `bind(...)` in it, "
        "with the cache. Of B 1 the condition is one, without a batch axis. Base alone: the same "
        "batch without adapters, its gradient that of the embedded tokens.",
        f"`--only 'adapters:PATTERN'` takes the cells whose names fit, of {', '.join(MODELS)} × "
        "q,v or all linear layers × padded or no mask × B 1, 8, 32 × inference, training, "
        "generation.",
    ],
    workloads,
    judge,
    table,
    page="adapters",
    tolerance=TOLERANCE,
)
