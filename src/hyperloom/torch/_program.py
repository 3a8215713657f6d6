"""Calls that are decided once: for small layers the deciding takes longer than the layers.

A chain of simple layers whose tensors come from heads without slot embeddings is run by a
program: a list of tensor operations, made at the first call with inputs of a shape and used for
every call like it. Everything else, and whatever a program cannot know beforehand, goes the
general way (`_run.execute`), with the same numbers.

Legend of suffixes: B conditions, N rows of one condition, I inputs, O outputs, R features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperloom._cost import Layer
from hyperloom._execution import Execution
from hyperloom._form import Whole
from hyperloom._layout import Source
from hyperloom._plan import Plan
from hyperloom._trunk import Linear
from hyperloom.torch._choice import choose
from hyperloom.torch._lowered import ElementwiseStep, LinearStep, beside
from hyperloom.torch._structured import into_inputs, linear_each, out_of_outputs

if TYPE_CHECKING:
    from hyperloom.torch._conditions import Encoded
    from hyperloom.torch._hypernetwork import HyperNetwork

_USUAL = Execution()
_MOST = 64  # programs that one hypernetwork remembers

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
        by_rows: Whether the head's rows are cut, or what they give.
        operations: Layer by layer.
        ways: For each linear layer its weight's name, how it is evaluated, and its sizes.
    """

    head: str
    sizes: tuple[int, ...]
    trunk: bool
    by_rows: bool
    operations: tuple[Operation, ...]
    ways: tuple[tuple[str, str, Layer], ...] = ()

    def run(self, hnet: HyperNetwork, vector: Tensor, x: Tensor) -> Tensor:
        """Run the target on `x` `(B, *n, I)` with what conditions `(B, E)` give."""
        modules: Any = hnet._modules
        head = modules["heads"]._modules[self.head]
        features = modules["trunks"][0](vector, None) if self.trunk else vector
        if self.by_rows:
            rows = head.weight.split_with_sizes(self.sizes)
            operands = (features, rows, head.bias.split_with_sizes(self.sizes))
        else:
            numbers = F.linear(features, head.weight, head.bias)
            operands = (features, numbers.split_with_sizes(self.sizes, -1), ())
        for operation in self.operations:
            x = operation(operands, x)
        return x


def program_for(
    hnet: HyperNetwork,
    encoded: Encoded,
    inputs: tuple[Any, ...],
    in_dims: Any,
    kwargs: Mapping[str, Any],
) -> Program | None:
    """Return the program for a call like this, or `None` for the general way."""
    if len(inputs) != 1 or in_dims != 0 or kwargs or hnet.execution != _USUAL:
        return None
    if encoded.ids is not None and encoded.batch != (1,):  # rows may share ids
        return None
    return find(hnet, encoded.vector, inputs[0])


def find(hnet: HyperNetwork, vector: Tensor, x: Any) -> Program | None:
    """Return the program for inputs like these, or `None` for the general way."""
    if type(x) is not Tensor or torch.compiler.is_compiling():
        return None
    grad = torch.is_grad_enabled()
    key = (vector.shape, x.shape, x.dtype, grad, x.requires_grad, x.device, vector.dtype)
    known = hnet.__dict__["_programs"]
    try:
        program = known[key]
    except KeyError:
        if len(known) >= _MOST:
            known.clear()
        program = known[key] = _write(hnet, vector, x, grad)
    if program is None or torch.is_autocast_enabled(x.device.type):
        return None
    head: Any = hnet.heads._modules[program.head]
    return None if head._forward_hooks or head._forward_pre_hooks else program


def _write(hnet: HyperNetwork, vector: Tensor, x: Tensor, grad: bool) -> Program | None:
    """Return the program for a kind of call, if it is one that a program can do."""
    plan, chain = hnet.plan, hnet._skeleton.chain
    sizes = _sizes(plan)
    fits = x.ndim >= 2 and vector.ndim == 2 and x.shape[:1] == vector.shape[:1]
    alike = {x.dtype, vector.dtype, *hnet._skeleton.dtypes.values()}
    if chain is None or sizes is None or not fits or len(alike) > 1:
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
            operations.append(_apart(step.forward))
        elif isinstance(step, LinearStep):
            if step.weight not in names or (step.bias is not None and step.bias not in names):
                return None
            outputs, inputs = plan.spec[step.weight].shape
            size = {"fan_in": inputs, "fan_out": outputs, "inputs": inputs}
            own = replace(layer, **size, input_gradient=into)
            way = choose(own, x.element_size(), x.device.type)
            place = None if step.bias is None else names.index(step.bias)
            ways.append((step.weight, way, own))
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
    if head.source is not Source.FEATURES:
        return None
    if (
        head.source is not Source.FEATURES
        or head.embedding
        or head.scaled
        or plan.kept
        or plan.trunk.needs_ids
        or len(plan.widths) != 1
        or plan.widths[0]
    ):
        return None
    for entry in plan.entries:
        piece = entry.pieces[0]
        if entry.form != Whole() or piece.count != 1 or piece.start != at:
            return None
        sizes.append(piece.numel)
        at += piece.numel
    return tuple(sizes) if at == head.slot_size else None


def _apart(function: Callable[[Tensor], Tensor]) -> Operation:
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
                made = flat @ base.mT
            else:
                b = F.linear(features, rows[bias], biases[bias])
                # One row a condition: the bias goes into the product. Else it meets N rows.
                made = (
                    torch.addmm(b, flat, base.mT)
                    if len(flat) == len(b)
                    else (F.linear(x, base) + beside(b, x)).view(-1, outputs)
                )
            if way == "inputs":
                wide = into_inputs(x, features, 1).view(len(flat), -1)
                made = torch.addmm(made, wide, templates.view(outputs, -1).mT)
                return made.view(*x.shape[:-1], outputs)
            lifted = features.view(len(features), *(1,) * (ndim - 2), -1)
            made = made.view(*x.shape[:-1], outputs)
            return made + out_of_outputs(x, lifted, templates, shape)

        return run
