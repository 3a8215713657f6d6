"""Chains of simple layers, run on a batch of conditions without `vmap`.

A target made of `Sequential`, `Linear`, `LayerNorm` and elementwise modules does the same to an
input with conditions in front as `vmap` would, and does it with less overhead. Only classes that
are known to are taken, exactly (no subclasses), activations of the user's whose code shows that
they treat every number alike, and only without hooks.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from hyperloom._core.choices.structure import Plain
from hyperloom._core.choices.trunks import Linear
from hyperloom._core.plan.cost import Layer
from hyperloom._core.plan.plan import Plan
from hyperloom.torch._run.elementwise import is_elementwise, read_by
from hyperloom.torch._target.private import GLOBAL_HOOKS
from hyperloom.torch._weights.choose import choose
from hyperloom.torch._weights.sums import into_inputs, out_of_outputs

if TYPE_CHECKING:
    from hyperloom.torch._generate.encoded import Encoded
    from hyperloom.torch._generate.generator import Generator
    from hyperloom.torch._run.call import Call
    from hyperloom.torch._run.runner import Runner
    from hyperloom.torch._target.buffers import Buffers

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom.torch._weights.weights import Weight, linear_each

# Weight objects, dense tensors (B, *shape), or tensors (*shape) that all conditions share.
Weights = Mapping[str, Weight | Tensor]
Step = Callable[[Weights, Tensor], Tensor]
Names = Mapping[int, Mapping[str, str]]


@dataclass(frozen=True)
class Chain:
    """A target as a chain of steps.

    Attributes:
        steps: Run one after the other; each maps weights and `(B, *n, I)` to `(B, *n, O)`, or for
            one condition `(*n, I)` to `(*n, O)`.
        forwards: The classes of its modules, and what their `forward` was.
        read: What activations of the user's read of themselves: attributes, name and value.
    """

    steps: tuple[Step, ...]
    forwards: tuple[tuple[type, Any], ...] = ()
    read: tuple[tuple[dict[str, Any], str, Any], ...] = ()

    def holds(self) -> bool:
        """Whether the modules would still do what the steps do.

        Hooks that are registered for all modules, and functions put on torch's classes later, are
        called by modules only.
        """
        for kind, forward in self.forwards:  # no generator: it takes as long as a small layer
            if kind.forward is not forward:
                return False
        for attributes, name, value in self.read:
            if attributes.get(name) is not value:
                return False
        return not any(GLOBAL_HOOKS)

    def run(self, weights: Weights, x: Tensor) -> Tensor:
        """Run the chain on `(B, *n, I)`."""
        for step in self.steps:
            x = step(weights, x)
        return x


def run_chain(
    runner: Runner, weights: Weights, shared: Weights, call: Call, buffers: Buffers
) -> Tensor:
    """Run a target that is a chain, with the conditions in front."""
    chain, x = runner.chain, call.chain_input()
    assert chain is not None
    assert x is not None
    return chain.run({**shared, **weights}, x)


def lower(module: nn.Module, names: Names) -> Chain | None:
    """Return the module as a chain, or `None` if it is anything else.

    Args:
        module: The target's skeleton.
        names: Module (by `id`) and parameter -> name of the tensor (ties).
    """
    steps = _steps(module, names)
    if steps is None:
        return None
    kinds = dict.fromkeys((nn.Module, *(type(part) for part in module.modules())))
    read = tuple(found for part in module.modules() for found in read_by(part))
    return Chain(tuple(steps), tuple((kind, kind.forward) for kind in kinds), read)


def _steps(module: nn.Module, names: Names) -> list[Step] | None:
    if _has_hooks(module) or "forward" in vars(module):  # a forward put on the instance
        return None
    if type(module) is nn.Sequential:
        found_steps: list[Step] = []
        # Not named_children(): that leaves out a module's second appearance.
        for part in module:
            steps = _steps(part, names)
            if steps is None:
                return None
            found_steps += steps
        return found_steps
    if is_elementwise(module):
        return [ElementwiseStep(module.forward)]
    tensors = names.get(id(module), {})
    if type(module) is nn.Linear:
        return [LinearStep(tensors["weight"], tensors.get("bias"))]
    if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
        return [LayerNormStep(module, tensors.get("weight"), tensors.get("bias"))]
    return None


def _has_hooks(module: nn.Module) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in hooks)


@dataclass(frozen=True)
class ElementwiseStep:
    """A module that treats every number alike.

    Attributes:
        forward: What it does. It has no hooks, and the call around it costs more than it does.
    """

    forward: Callable[[Tensor], Tensor]

    def __call__(self, weights: Weights, x: Tensor) -> Tensor:
        return self.forward(x)


@dataclass(frozen=True)
class LinearStep:
    """A linear layer; the names of its weight and bias."""

    weight: str
    bias: str | None

    def __call__(self, weights: Weights, x: Tensor) -> Tensor:
        w = weights[self.weight]
        b = None if self.bias is None else _value(weights[self.bias])
        if isinstance(w, Tensor) and b is not None and b.ndim == w.ndim - 1:
            return F.linear(x, w, b) if w.ndim == 2 else linear_each(x, w, 1, b)
        if isinstance(w, Tensor):
            y = F.linear(x, w) if w.ndim == 2 else linear_each(x, w, 1)
        else:
            y = w.linear(x)
        return y if b is None else y + over_rows(b, y)


@dataclass(frozen=True)
class LayerNormStep:
    """A layer norm over the last axis; the names of its scale and shift."""

    module: nn.LayerNorm
    weight: str | None
    bias: str | None

    def __call__(self, weights: Weights, x: Tensor) -> Tensor:
        w, b = (None if n is None else _value(weights[n]) for n in (self.weight, self.bias))
        shape, eps = self.module.normalized_shape, self.module.eps
        if all(vector is None or vector.ndim == 1 for vector in (w, b)):
            return F.layer_norm(x, shape, w, b, eps)
        y = F.layer_norm(x, shape, eps=eps)
        y = y if w is None else y * over_rows(w, y)
        return y if b is None else y + over_rows(b, y)


def _value(weight: Weight | Tensor) -> Tensor:
    return weight if isinstance(weight, Tensor) else weight.dense()


def over_rows(vector: Tensor, y: Tensor) -> Tensor:
    """Bring `(O,)` or `(B, O)` to where it meets `(B, *n, O)`, in its dtype."""
    if vector.ndim == 1:
        return vector.to(y.dtype)
    return vector.to(y.dtype).reshape(vector.shape[0], *(1,) * (y.ndim - 2), vector.shape[1])


# What a step reads: features (B, R), and either each tensor's numbers (B, numel) or the rows
# (numel, R) and biases (numel,) of the head that give them.
Operands = tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]


Operation = Callable[[Operands, Tensor], Tensor]


@dataclass(frozen=True)
class Program:
    """What calls with inputs of one shape do.

    Attributes:
        head: Name of the head.
        sizes: Numbers of each tensor, in the head's order.
        trunk: Whether there is one to run.
        by_rows: Whether the head's rows are cut by tensor; else its outputs are.
        operations: Layer by layer.
        ways: For each linear layer its weight's name, how it is evaluated, and its sizes.
    """

    head: str
    sizes: tuple[int, ...]
    trunk: bool
    by_rows: bool
    operations: tuple[Operation, ...]
    ways: tuple[tuple[str, str, Layer], ...] = ()

    def make(self, generator: Generator, encoded: Encoded) -> Operands:
        """Return what the operations read, for conditions `(B, E)`."""
        modules: Any = generator._modules
        vector, head = encoded.vector, modules["heads"]._modules[self.head]
        features = modules["trunks"][0](vector, None) if self.trunk else vector
        if self.by_rows:
            rows = head.weight.split_with_sizes(self.sizes)
            return features, rows, head.bias.split_with_sizes(self.sizes)
        numbers = F.linear(features, head.weight, head.bias)
        return features, numbers.split_with_sizes(self.sizes, -1), ()

    def run(self, runner: Runner, operands: Operands, shared: Any, call: Call, _: Any) -> Tensor:
        """Run the target on the input `(B, *n, I)`: a strategy, for what `make` returned."""
        x: Any = call.usual
        for operation in self.operations:
            x = operation(operands, x)
        return x


def write_program(
    generator: Generator, chain: Chain, vector: Tensor, x: Tensor, grad: bool
) -> Program | None:
    """Return the program for a kind of call, if it is one that a program can do."""
    plan = generator.plan
    sizes = _sizes(plan)
    fits = x.ndim >= 2 and vector.ndim == 2 and x.shape[:1] == vector.shape[:1]
    alike = {x.dtype, vector.dtype, *generator.dtypes.values()}
    if sizes is None or not fits or len(alike) > 1:
        return None
    if vector.device != x.device or len(plan.heads) != 1:
        return None
    names = [entry.tensor for entry in plan.entries]
    rows = math.prod(x.shape[1:-1])
    layer = Layer(len(vector), rows, plan.features(plan.heads[0]), 1, 1, 1, grad)
    ways: list[tuple[str, str, Layer]] = []
    operations: list[Any] = []
    into = x.requires_grad
    for step in chain.steps:
        if isinstance(step, ElementwiseStep):
            operations.append(_elementwise(step.forward))
        elif isinstance(step, LinearStep):
            if step.weight not in names or (step.bias is not None and step.bias not in names):
                return None
            outputs, inputs = plan.spec[step.weight].shape
            size = {"fan_in": inputs, "fan_out": outputs, "inputs": inputs}
            sized = replace(layer, **size, input_gradient=into)
            way = choose(sized, x.element_size(), x.device.type)
            place = None if step.bias is None else names.index(step.bias)
            ways.append((step.weight, way, sized))
            operations.append(_Linear(names.index(step.weight), place, (outputs, inputs), way))
            into = True
        else:
            return None
    by_rows = any(way != "dense" for _, way, _ in ways)
    done = [o.operation(by_rows, x.ndim) if isinstance(o, _Linear) else o for o in operations]
    trunk = not isinstance(plan.trunk, Linear)
    return Program(plan.heads[0].name, sizes, trunk, by_rows, tuple(done), tuple(ways))


def _sizes(plan: Plan) -> tuple[int, ...] | None:
    """Return each tensor's numbers, if one head gives all, one after the other, as they are."""
    head, at, sizes = plan.heads[0], 0, []
    if (
        not head.linear
        or head.embedding
        or head.scaled
        or plan.kept
        or plan.trunk.needs_ids
        or plan.trunk.over_slots
        or len(plan.widths) != 1
        or plan.widths[0]
    ):
        return None
    for entry in plan.entries:
        piece = entry.pieces[0]
        if plan.structures[entry.tensor] != Plain() or not piece.contiguous or piece.start != at:
            return None
        sizes.append(piece.numel)
        at += piece.numel
    return tuple(sizes) if at == head.slot_size else None


def _elementwise(function: Callable[[Tensor], Tensor]) -> Operation:
    """Return an elementwise function as an operation."""
    return lambda operands, x: function(x)


@dataclass(frozen=True)
class _Linear:
    """A linear layer: the places of its tensors, its shape and the way it is evaluated."""

    weight: int
    bias: int | None
    shape: tuple[int, int]
    way: str

    def operation(self, by_rows: bool, ndim: int) -> Operation:
        """Return what to do with inputs of `ndim` axes."""
        if self.way == "dense":
            return self._dense_from_rows() if by_rows else self._dense()
        return self._contracted(ndim)

    def _dense(self) -> Operation:
        weight, bias, (outputs, inputs) = self.weight, self.bias, self.shape

        def run(operands: Operands, x: Tensor) -> Tensor:
            numbers = operands[1]
            w = numbers[weight].view(-1, outputs, inputs)
            return linear_each(x, w, 1, None if bias is None else numbers[bias])

        return run

    def _dense_from_rows(self) -> Operation:
        weight, bias, (outputs, inputs) = self.weight, self.bias, self.shape

        def run(operands: Operands, x: Tensor) -> Tensor:
            features, rows, biases = operands
            w = F.linear(features, rows[weight], biases[weight]).view(-1, outputs, inputs)
            b = None if bias is None else F.linear(features, rows[bias], biases[bias])
            return linear_each(x, w, 1, b)

        return run

    def _contracted(self, ndim: int) -> Operation:
        weight, bias, shape, way = self.weight, self.bias, self.shape, self.way
        outputs, inputs = shape

        def run(operands: Operands, x: Tensor) -> Tensor:
            features, rows, biases = operands
            templates, base = rows[weight], biases[weight].view(shape)
            flat = x.reshape(-1, inputs)
            if bias is None:
                y = flat @ base.mT
            else:
                b = F.linear(features, rows[bias], biases[bias])
                # One row a condition: the bias goes into the product. Else it meets N rows.
                y = (
                    torch.addmm(b, flat, base.mT)
                    if len(flat) == len(b)
                    else (F.linear(x, base) + over_rows(b, x)).view(-1, outputs)
                )
            if way == "inputs":
                wide = into_inputs(x, features, 1).flatten(0, -2)
                y = torch.addmm(y, wide, templates.view(outputs, -1).mT)
                return y.view(*x.shape[:-1], outputs)
            lifted = features.view(len(features), *(1,) * (ndim - 2), -1)
            y = y.view(*x.shape[:-1], outputs)
            return y + out_of_outputs(x, lifted, templates, shape)

        return run
