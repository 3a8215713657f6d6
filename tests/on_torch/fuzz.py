"""One random case: a target, choices, a call; the batch against the loop, and against NumPy."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import hyperloom.torch as hl
from hyperloom._core.reference import executor
from hyperloom.torch._tools.checkpoint import neutral_tensors
from tests._support.compare import close
from tests.fuzz import CONDITIONS, DIM, FORMS, NUM_IDS, TRUNKS, Drawn, draw, layout_of, program

TRANSFORMS = ("gradients", "gradients", "no_grad", "eval", "functional_call", "vmap", "float32")
WAYS = ("dense", "inputs", "outputs")
Step = Callable[[Any], Any]


class Graph(nn.Module):
    """A target with a forward of its own: steps drawn at random, some with a residual."""

    def __init__(self, pick: random.Random) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        self.steps: list[tuple[str, Any]] = []
        self.kind = pick.choice(("vectors", "vectors", "images", "tokens"))
        getattr(self, f"_{self.kind}")(pick)
        self.said = f"{self.kind}: {', '.join(name for name, _ in self.steps)}"

    def _add(self, name: str, part: nn.Module) -> None:
        self.steps.append((name, len(self.parts)))
        self.parts.append(part)

    def _vectors(self, pick: random.Random) -> None:
        width = 3
        for _ in range(pick.randint(1, 4)):
            name = pick.choice(("linear", "linear", "norm", "residual", "tanh", "scaled", "split"))
            if name in ("linear", "split"):
                new = pick.choice((2, 4, 5)) if name == "linear" else 4
                self._add(name, nn.Linear(width, new, bias=pick.random() < 0.7))
                width = new if name == "linear" else 2
            elif name == "residual":
                self._add(name, nn.Linear(width, width))
            elif name == "norm":
                norms = (nn.LayerNorm(width), nn.BatchNorm1d(width, track_running_stats=False))
                self._add(name, pick.choice(norms))
            elif name == "scaled":
                self._add(name, Scaled(width))
            else:
                self.steps.append((name, None))
        self._add("linear", nn.Linear(width, 2))

    def _images(self, pick: random.Random) -> None:
        channels = 2
        for _ in range(pick.randint(1, 2)):
            new, groups = pick.choice((2, 4)), pick.choice((1, 2))
            stride, padding = pick.choice((1, 2)), pick.choice((0, 1))
            conv = nn.Conv2d(channels, new, 3, stride, padding, groups=groups)
            self._add("conv", conv)
            channels = new
            if pick.random() < 0.4:
                self._add("norm", nn.GroupNorm(2, channels))
            self.steps.append(("tanh", None))
        self.steps.append(("pool", None))
        self._add("linear", nn.Linear(channels, 2))

    def _tokens(self, pick: random.Random) -> None:
        self._add("embedding", nn.Embedding(6, 4))
        name = pick.choice(("attention", "gru", "lstm", "linear"))
        parts = {
            "attention": partial(nn.MultiheadAttention, 4, 2, batch_first=True),
            "gru": partial(nn.GRU, 4, 4, batch_first=True),
            "lstm": partial(nn.LSTM, 4, 4, batch_first=True),
            "linear": partial(nn.Linear, 4, 4),
        }
        self._add(name, parts[name]())
        self.steps.append(("mean", None))
        self._add("linear", nn.Linear(4, 2))

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        for name, index in self.steps:
            part: Any = None if index is None else self.parts[index]
            if name == "residual":
                x = x + torch.tanh(part(x))
            elif name == "split":
                left, right = F.linear(x, part.weight, part.bias).chunk(2, -1)
                x = left * torch.sigmoid(right)
            elif name == "attention":
                x = part(x, x, x, need_weights=False)[0]
            elif name in ("gru", "lstm"):
                x = part(x)[0]
            elif part is not None:
                x = part(x)
            else:
                x = {"tanh": torch.tanh, "pool": _pool, "mean": _mean}[name](x)
        return x if shift is None else x + shift

    def inputs(self, *lead: int) -> Tensor:
        """Return inputs of one call, with leading dimensions."""
        if self.kind == "tokens":
            return torch.randint(6, (*lead, 2, 3))
        shape = (4, 3) if self.kind == "vectors" else (2, 2, 9, 9)
        return torch.randn(*lead, *shape, dtype=torch.float64)


class Scaled(nn.Module):
    """A parameter of two axes that is used as it is, transposed and by its rows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))
        self.gain = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.gain) @ self.weight.t() + self.weight[0]


def _pool(x: Tensor) -> Tensor:
    return x.mean((-2, -1))


def _mean(x: Tensor) -> Tensor:
    return x.mean(-2)


class Case:
    """A case, made again from its seed.

    Args:
        seed: The seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed, pick = seed, random.Random(seed)
        torch.manual_seed(seed)
        self.target = Graph(pick).double()
        with torch.no_grad():  # low ranks are for tensors around zero; few numbers may be off
            for parameter in self.target.parameters():
                if parameter.ndim > 1:
                    parameter -= parameter.mean()
        self.drawn: Drawn = draw(pick, TRANSFORMS)
        self.way = pick.choice((None, *WAYS))

    def __repr__(self) -> str:
        return f"seed {self.seed}: {self.target.said}; {self.drawn}, way {self.way}"

    def hypernetwork(self) -> hl.HyperNetwork:
        """Make the hypernetwork; every learned tensor is moved from its start."""
        drawn = self.drawn
        spec = hl.target_spec(self.target)
        matrices = [t.name for t in spec if len(t.shape) > 1]
        rest = [t.name for t in spec if len(t.shape) < 2]
        layout: dict[str, Any] = dict.fromkeys(matrices, layout_of(drawn.layouts[0]))
        if drawn.layouts[1] is not None:
            layout |= dict.fromkeys(rest, layout_of(drawn.layouts[1]))
        form: dict[str, Any] = dict.fromkeys(matrices, FORMS[drawn.form])
        if drawn.form == "delta":
            form |= dict.fromkeys([name for name in rest if name in layout], hl.Delta())
        hnet = hl.HyperNetwork(
            self.target,
            condition=CONDITIONS[drawn.condition],
            trunk=TRUNKS[drawn.trunk],
            layout=layout,
            form=form,
        )
        with torch.no_grad():
            for parameter in hnet.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
        # Sums of templates go any way, whatever is cheaper; other forms have one.
        if self.way and drawn.layouts[0] == "full" and drawn.form in ("whole", "delta"):
            linear = {i for name, i in self.target.steps if name in ("linear", "residual")}
            ways = {f"parts.{i}.weight": self.way for i in linear}
            hnet.execution = replace(drawn.execution, ways=ways)
        else:
            hnet.execution = drawn.execution
        return hnet.eval() if drawn.transform == "eval" else hnet

    def conditions(self) -> Any:
        """Return the raw value of the batch."""
        batch = self.drawn.batch
        ids = torch.randint(2 if self.drawn.repeat else NUM_IDS, batch)
        vectors = torch.randn(*batch, DIM, dtype=torch.float64)
        return {"ids": ids, "concat": (ids, vectors)}.get(self.drawn.condition, vectors)

    def check(self) -> None:
        """Compare the batch with the loop, gradients and all; raise `AssertionError` if not."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", hl.SlowWarning)
                self._check()
        except Exception as error:
            text = f"{self}\n\n{program(self.seed, 'on_torch')}\n\n{type(error).__name__}: {error}"
            raise AssertionError(text) from error

    def _check(self) -> None:
        drawn, hnet = self.drawn, self.hypernetwork()
        torch.manual_seed(self.seed)
        x = self.target.inputs(*(drawn.batch if drawn.dims is not None else ()))
        shift = torch.randn(*(drawn.batch if drawn.shift == 0 else ()), 2, dtype=torch.float64)
        conditions = self.conditions()
        tolerance = 1e-9
        if drawn.transform == "float32":
            hnet, x, tolerance = hnet.float(), _as_float(x), 2e-4
            shift, conditions = _as_float(shift), _map(conditions, _as_float)
        given = x.movedim(0, 1) if drawn.dims == 1 else x
        options: dict[str, Any] = {} if drawn.shift == "none" else {"shift": shift}
        dims: Any = {0: drawn.dims}
        if drawn.shift == "none" or drawn.shift == drawn.dims:
            dims = drawn.dims
        elif drawn.shift == 0:
            dims = (drawn.dims,)  # keywords pair at dimension 0
        else:  # shared beside an input that pairs: the other way round
            options, dims = {}, drawn.dims
        if drawn.dims == 1 and options:
            options, dims = {}, 1
        call = partial(hnet, given, condition=conditions, in_dims=dims, **options)
        wanted, made = self._loop(hnet, conditions, x, options.get("shift")), self._call(hnet, call)
        close(made, wanted, tolerance, scaled=True)
        if drawn.transform != "no_grad":
            probe = torch.randn_like(wanted)
            parameters = [p for p in hnet.parameters() if p.requires_grad]
            grads = [
                torch.autograd.grad((out * probe).sum(), parameters, allow_unused=True)
                for out in (made, wanted)
            ]
            for (name, p), mine, right in zip(hnet.named_parameters(), *grads, strict=True):
                zero = torch.zeros_like(p)
                pair = (zero if mine is None else mine, zero if right is None else right)
                close({name: pair[0]}, {name: pair[1]}, tolerance * 10, scaled=True)
        if drawn.transform != "float32":
            self._check_generated(hnet, conditions)

    def _call(self, hnet: hl.HyperNetwork, call: Any) -> Tensor:
        """Make the call under the transform."""
        transform, drawn_strategy = self.drawn.transform, self.drawn.execution.strategy
        if transform == "no_grad":
            with torch.no_grad():
                return call()
        if transform == "functional_call":
            parameters: dict[str, Tensor] = dict(hnet.named_parameters())
            return functional_call(hnet, parameters, call.args, call.keywords)
        # torch cannot map a recurrent layer, as the loop runs it: as it is.
        mapped = drawn_strategy != "loop" or not {"gru", "lstm"} & {n for n, _ in self.target.steps}
        if transform == "vmap" and mapped:  # twice the same inputs: twice what the call gives
            both = torch.stack([call.args[0]] * 2)
            again = partial(hnet, **call.keywords)
            return torch.func.vmap(again, randomness="different")(both)[1]
        return call()

    def _loop(self, hnet: hl.HyperNetwork, conditions: Any, x: Tensor, shift: Any) -> Tensor:
        """Return what the definition says: plain modules, one condition after the other."""
        drawn = self.drawn
        template = copy.deepcopy(self.target).train(hnet.training)
        template = template.to(next(hnet.parameters()).dtype)
        outputs = []
        for index in np.ndindex(*drawn.batch):
            one = _map(conditions, lambda v, index=index: v[index])
            own = x[index] if drawn.dims is not None else x
            more = None if shift is None else shift[index] if drawn.shift == 0 else shift
            tensors = hnet.generate(one)
            outputs.append(functional_call(template, tensors, (own, more)))
        return torch.stack(outputs).unflatten(0, drawn.batch)

    def _check_generated(self, hnet: hl.HyperNetwork, conditions: Any) -> None:
        """Compare what is generated with the NumPy oracle."""
        arrays = {n: t.numpy() for n, t in neutral_tensors(hnet, with_base=True).items()}
        with torch.no_grad():
            tensors = hnet.generate(conditions)
        for index in list(np.ndindex(*self.drawn.batch))[:2]:
            one = _map(conditions, lambda v, index=index: _value(v[index]))
            for name, value in executor.generate(hnet.plan, arrays, one).items():
                right = torch.from_numpy(np.asarray(value))
                close({name: tensors[name][index]}, {name: right}, 1e-11, scaled=True)


def _map(value: Any, function: Step) -> Any:
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)


def _as_float(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _value(value: Tensor) -> Any:
    return value.numpy() if value.is_floating_point() else int(value)
