"""A generated multilayer perceptron, and every way of running it that there is.

The target is `Linear, ReLU, ..., Linear`; its tensors are linear in a condition `c` of width `R`.
One step is the forward pass and the gradients of `c`, of all learned numbers of the generator
and, if asked, of the input. Hand-written contestants keep a head for each tensor, which is
faster than one head whose output is cut up: no gradient of the size of all weights is put
together again.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

import hyperloom.torch as hl
from benchmarks._case import Contestant, Role

HAS_HYPER_NN = importlib.util.find_spec("hypernn") is not None


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Return `Linear, ReLU, ..., Linear` of the given widths."""
    parts: list[nn.Module] = []
    for a, b in pairwise(sizes):
        parts += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class Problem:
    """The numbers that all contestants share.

    Args:
        sizes: Widths of the target.
        width: Width `R` of the condition, which is what the heads see.
        conditions: Conditions `B`.
        rows: Rows `n` of each.
        input_gradient: Whether the input takes a gradient, as in the middle of a network.
        device: Where.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        width: int,
        conditions: int,
        rows: int,
        *,
        input_gradient: bool = False,
        device: torch.device,
    ) -> None:
        torch.manual_seed(0)
        self.sizes, self.width, self.conditions, self.rows = sizes, width, conditions, rows
        self.device = device
        self.target = mlp(sizes).to(device)
        self.hnet = hl.HyperNetwork(self.target, condition=hl.Vector(width))
        self.names = [name for name, _ in self.target.named_parameters()]
        self.shapes = [p.shape for p in self.target.parameters()]
        self.numels = [shape.numel() for shape in self.shapes]
        self.c = torch.randn(conditions, width, device=device, requires_grad=True)
        self.x = torch.randn(conditions, rows, sizes[0], device=device)
        self.x.requires_grad_(input_gradient)
        self.g = torch.randn(conditions, rows, sizes[-1], device=device)
        self.inputs = [self.c, self.x] if input_gradient else [self.c]
        head: Any = self.hnet.heads["full"]
        self.weight, self.bias = head.weight, head.bias  # (P, R) and (P,)
        self.weights = [_leaf(w) for w in self.weight.split(self.numels)]
        self.biases = [_leaf(b) for b in self.bias.split(self.numels)]

    def gradients(self, y: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the output and the gradients of inputs and `leaves`."""
        return (y, *torch.autograd.grad(y, [*self.inputs, *leaves], self.g))

    def formed(self) -> list[Tensor]:
        """Form all weights by hand, one product for each tensor: `(B, *shape)`."""
        made = map(F.linear, [self.c] * len(self.weights), self.weights, self.biases)
        return [w.view(-1, *shape) for w, shape in zip(made, self.shapes, strict=True)]

    def named(self, made: Sequence[Tensor]) -> dict[str, Tensor]:
        """Name what `gradients` returned for whole heads."""
        inputs = ["c", "x"][: len(self.inputs)]
        return dict(zip(["y", *inputs, "weight", "bias"], made, strict=True))

    def joined(self, made: Sequence[Tensor]) -> dict[str, Tensor]:
        """Name what `gradients` returned for a head of each tensor."""
        num, first = len(self.weights), 1 + len(self.inputs)
        weights, biases = list(made[first : first + num]), list(made[first + num :])
        return self.named([*made[:first], torch.cat(weights), torch.cat(biases)])


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()


def everyone(problem: Problem, contraction: Role = "opponent") -> list[Contestant]:
    """Return all contestants, hyper-nn only where it is installed."""
    made = [hyperloom(problem), hand_bmm(problem), hand_vmap(problem)]
    made += [hand_contraction(problem, contraction), loop(problem), hypnettorch(problem)]
    return [*made, hyper_nn(problem)] if HAS_HYPER_NN else made


def hyperloom(problem: Problem) -> Contestant:
    hnet, p = problem.hnet, problem
    leaves = [p.weight, p.bias]

    def step() -> Any:
        return p.gradients(hnet(p.x, condition=p.c), leaves)

    def ways() -> str:
        uses = hnet.explain(p.x, condition=p.c).used
        return ", ".join(use.choice for use in uses if use.operation == "linear")

    return Contestant("hyperloom", step, p.named, "ours", ways)


def hand_bmm(problem: Problem) -> Contestant:
    p = problem

    def step() -> Any:
        # W @ x, not x @ W: the gradient of W then has W's own layout and is not copied into it.
        made, x = p.formed(), p.x.mT
        for i in range(0, len(made), 2):
            x = torch.baddbmm(made[i + 1].unsqueeze(2), made[i], x if i == 0 else x.relu())
        return p.gradients(x.mT, [*p.weights, *p.biases])

    return Contestant("hand bmm", step, p.joined)


def hand_vmap(problem: Problem) -> Contestant:
    p = problem
    run = vmap(lambda params, x: functional_call(p.target, params, (x,)))

    def step() -> Any:
        y = run(dict(zip(p.names, p.formed(), strict=True)), p.x)
        return p.gradients(y, [*p.weights, *p.biases])

    return Contestant("hand vmap", step, p.joined)


def loop(problem: Problem) -> Contestant:
    p = problem

    def step() -> Any:
        # unbind: indexing would make a zero tensor of all weights for each condition, backward.
        each = zip(*(w.unbind() for w in p.formed()), strict=True)
        made = [
            functional_call(p.target, dict(zip(p.names, params, strict=True)), (x,))
            for params, x in zip(each, p.x.unbind(), strict=True)
        ]
        return p.gradients(torch.stack(made), [*p.weights, *p.biases])

    return Contestant("loop", step, p.joined)


def hand_contraction(problem: Problem, role: Role = "opponent") -> Contestant:
    """Never form a weight, by hand: on the side, inputs or outputs, where the layer is narrower.

    Where the narrower side is the output, the templates are kept as `(O R, I)`, so that no copy
    is made in a step.
    """
    p = problem
    pairs = list(zip(p.weights, p.shapes, strict=True))
    on_inputs = [len(s) == 2 and s[1] <= s[0] for s in p.shapes]
    weights = [
        w if len(s) == 1 or left else _leaf(_outputs_first(w, s))
        for (w, s), left in zip(pairs, on_inputs, strict=True)
    ]

    def layer(x: Tensor, i: int) -> Tensor:
        outputs, inputs = p.shapes[i]
        if on_inputs[i]:
            z = (x.unsqueeze(-1) * p.c[:, None, None, :]).flatten(-2)
            y = F.linear(z, weights[i].view(outputs, -1))
        else:
            y = F.linear(x, weights[i].view(-1, inputs)).unflatten(-1, (outputs, p.width))
            y = (y * p.c[:, None, None, :]).sum(-1)
        bias = F.linear(p.c, weights[i + 1], p.biases[i + 1]).unsqueeze(1)
        return y + F.linear(x, p.biases[i].view(outputs, inputs)) + bias

    def step() -> Any:
        x = p.x
        for i in range(0, len(weights), 2):
            x = layer(x if i == 0 else x.relu(), i)
        return p.gradients(x, [*weights, *p.biases])

    def results(made: Any) -> Mapping[str, Tensor]:
        made, first = list(made), 1 + len(p.inputs)
        for i, (shape, left) in enumerate(zip(p.shapes, on_inputs, strict=True)):
            if len(shape) == 2 and not left:
                ori = made[first + i].view(shape[0], p.width, shape[1])
                made[first + i] = ori.mT.reshape(-1, p.width)
        return p.joined(made)

    return Contestant("hand contraction", step, results, role)


def _outputs_first(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Templates `(O I, R)` as `(O R, I)`."""
    return weight.view(*shape, -1).mT.reshape(-1, shape[1]).contiguous()


def hypnettorch(problem: Problem) -> Contestant:
    """hypnettorch 0.0.4: HMLP makes a list of weights for each condition, MLP runs one of them."""
    from hypnettorch.hnets import HMLP
    from hypnettorch.mnets import MLP

    p = problem
    hidden = tuple(p.sizes[1:-1])
    mnet: Any = MLP(p.sizes[0], p.sizes[-1], hidden, no_weights=True, verbose=False)
    widths: dict[str, Any] = {"uncond_in_size": p.width, "cond_in_size": 0, "num_cond_embs": 0}
    hnet: Any = HMLP(mnet.param_shapes, layers=(), verbose=False, **widths).to(p.device)
    with torch.no_grad():
        hnet.layer_weight_tensors[0].copy_(p.weight)
        hnet.layer_bias_vectors[0].copy_(p.bias)
    leaves = [hnet.layer_weight_tensors[0], hnet.layer_bias_vectors[0]]

    def step() -> Any:
        weights = hnet.forward(uncond_input=p.c, ret_format="sequential")
        made = [mnet.forward(x, weights=w) for x, w in zip(p.x.unbind(), weights, strict=True)]
        return p.gradients(torch.stack(made), leaves)

    return Contestant("hypnettorch", step, p.named)


def hyper_nn(problem: Problem) -> Contestant:
    """hyper-nn 0.2.2: a generator of one's own in its base class, under vmap from outside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses functions that torch has deprecated
        from hypernn.torch import TorchHyperNetwork

    p = problem

    class Generator(TorchHyperNetwork):
        def generate_params(self, c: Tensor) -> tuple[Tensor, dict[str, Any]]:  # type: ignore[override]
            return F.linear(c, p.weight, p.bias), {}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hnet = Generator(p.target)
    run = vmap(lambda c, x: hnet(x, generate_params_kwargs={"c": c}))

    def step() -> Any:
        return p.gradients(run(p.c, p.x), [p.weight, p.bias])

    return Contestant("hyper-nn", step, p.named)
