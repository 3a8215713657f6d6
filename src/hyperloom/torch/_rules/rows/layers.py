"""Layers with a generated weight, on rows: each row meets the weight of its condition.

Every rule takes the meeting first and then what the function of PyTorch takes, by its names.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperloom.torch._rules.registry import ROWS, Rule, rule
from hyperloom.torch._rules.rows.standin import MIXING, STRAIGHT, Meeting, RowWise, dense
from hyperloom.torch._rules.standin import as_autocast, without_override_check
from hyperloom.torch._weights.rows import NotRowsError

# ---- products -----------------------------------------------------------------------------------


def _times(meeting: Meeting, x: Any, weight: Any, bias: Tensor | None = None) -> Tensor:
    """Return `x W^T` with rows in front, of `x` with rows wherever they are; with a shared bias."""
    rows = meeting.input(x)
    if not isinstance(weight, RowWise):
        return F.linear(rows, weight)
    if weight.ndim != 2:
        raise NotRowsError(f"a product with {weight.label!r} of {weight.ndim} axes")
    behind = meeting.weight_of(weight)
    return behind.linear(rows) if bias is None else behind.affine(rows, bias)


# `input` is how torch names it, and it may be given by name.
@rule(F.linear, when=ROWS)
def _linear(
    meeting: Meeting,
    input: Any,  # noqa: A002
    weight: Any,
    bias: Any = None,
) -> Tensor:
    if isinstance(weight, RowWise) and isinstance(bias, Tensor) and not _generated(bias):
        return meeting.output(_times(meeting, input, weight, bias), input)
    y = _times(meeting, input, weight)
    y = y if bias is None else y + meeting.vector(bias, y)
    return meeting.output(y, input)


def _straight_linear(x: Any, weight: Any, bias: Any = None) -> Tensor | None:
    """`F.linear` of rows, a generated matrix and perhaps a shared bias."""
    if type(weight) is not RowWise or isinstance(bias, RowWise):
        return None
    known = weight.meeting.knows(F.linear, weight.label)
    if known != ((True,) if bias is None else (True, False)) or len(weight.shape) != 2:
        return None
    behind = weight.meeting.weight_of(weight)
    return behind.linear(x) if bias is None else behind.affine(x, bias)


STRAIGHT[F.linear] = _straight_linear


@rule(torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__, when=ROWS)
def _matmul(meeting: Meeting, input: Any, other: Any) -> Tensor:  # noqa: A002
    return _product(meeting, input, other)


@rule(Tensor.__rmatmul__, when=ROWS)
def _swapped(meeting: Meeting, input: Any, other: Any) -> Tensor:  # noqa: A002
    return _product(meeting, other, input)


MIXING.update({torch.matmul, torch.mm, torch.einsum, Tensor.matmul, Tensor.mm})
MIXING.update({Tensor.__matmul__, Tensor.__rmatmul__, torch.addmm, Tensor.addmm})


def _product(meeting: Meeting, x: Any, other: Any) -> Tensor:
    if not isinstance(other, RowWise):  # a generated matrix before rows of matrices
        last = meeting.input(other)
        if x.ndim != 2 or last.ndim < 3:
            raise NotRowsError(f"{x.label!r} of {x.ndim} axes times {other.ndim} axes")
        return meeting.weight_of(x).linear(last.mT).mT
    first = meeting.input(x)
    if other.ndim == 1:
        column = dense(other).unsqueeze(-2)
        return meeting.rows.fit(len(first)).product(first, column).squeeze(-1)
    if other.ndim == 2:
        return meeting.output(meeting.weight_of(other.turned()).linear(first), x)
    if other.ndim < first.ndim:  # heads: (H, I, O) for rows (L, H, n, I)
        rows = meeting.rows.fit(len(first))
        return rows.segments(torch.matmul, (first,), (dense(other),))
    raise NotRowsError(f"rows of {first.ndim} axes times {other.label!r} of {other.ndim}")


@rule(torch.addmm, Tensor.addmm, when=ROWS)
def _addmm(
    meeting: Meeting,
    input: Any,  # noqa: A002
    mat1: Any,
    mat2: Any,
    *,
    beta: Any = 1,
    alpha: Any = 1,
) -> Tensor:
    plain = alpha == 1 == beta and not _generated(input, mat1) and input.ndim == 1
    if plain and isinstance(mat2, RowWise) and mat2.ndim == 2:
        return meeting.output(_times(meeting, mat1, mat2.turned(), input), mat1)
    y = _product(meeting, mat1, mat2) if _generated(mat1, mat2) else meeting.input(mat1) @ mat2
    y = y if alpha == 1 else y * alpha
    bias = meeting.vector(input, y)
    return y + (bias if beta == 1 else bias * beta)


def _generated(*values: Any) -> bool:
    return any(isinstance(value, RowWise) for value in values)


@rule(torch.einsum, when=ROWS)
def _einsum(meeting: Meeting, equation: Any, *operands: Any) -> Tensor:
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or "->" not in equation:
        raise NotRowsError("einsum without '->'")
    terms, _, result = equation.replace(" ", "").partition("->")
    names: list[str] = terms.split(",")
    rows = [i for i, value in enumerate(operands) if not _generated(value)]
    if rows == [0] and len(operands) == 2:
        x, weight = operands
        straight = _as_linear(names[0], names[-1], result)
        if straight is not None:
            return _product(meeting, x, weight if straight else weight.turned())
    front = {names[i][:1] for i in rows}
    if len(front) != 1 or result[:1] not in front or result[:1] == ".":
        raise NotRowsError(f"einsum {equation!r} without the rows in front")
    sizes = {len(operands[i]) for i in rows}
    if len(sizes) != 1:
        raise NotRowsError(f"einsum {equation!r} with first axes of {sorted(sizes)}")
    generated = [i for i in range(len(operands)) if i not in rows]

    def one(*values: Tensor) -> Tensor:
        in_order = dict(zip((*rows, *generated), values, strict=True))
        return torch.einsum(equation, *(in_order[i] for i in range(len(operands))))

    weights = tuple(dense(operands[i]) for i in generated)
    return meeting.rows.fit(sizes.pop()).segments(one, tuple(operands[i] for i in rows), weights)


def _as_linear(x: str, w: str, result: str) -> bool | None:
    """Whether an equation is rows times a matrix `(I, O)`, or its transpose; `None` if neither."""
    if len(w) != 2 or "." in w:
        return None
    for inputs, outputs, straight in ((w[0], w[1], True), (w[1], w[0], False)):
        fits = x.count(inputs) == 1 and x.endswith(inputs) and outputs not in x
        if fits and result == x[:-1] + outputs:
            return straight
    return None


@rule(F.bilinear, when=ROWS)
def _bilinear(meeting: Meeting, input1: Any, input2: Any, weight: Any, bias: Any = None) -> Tensor:
    first, second = meeting.input(input1), meeting.input(input2)
    outer = (first.unsqueeze(-1) * second.unsqueeze(-2)).flatten(-2)
    if isinstance(weight, RowWise):
        y = meeting.rows.fit(len(outer)).product(outer, dense(weight).flatten(2))
    else:
        y = F.linear(outer, weight.flatten(1))
    return y if bias is None else y + meeting.vector(bias, y)


# ---- tables -------------------------------------------------------------------------------------


@rule(F.embedding, when=ROWS)
def _embedding(
    meeting: Meeting,
    input: Any,  # noqa: A002
    weight: RowWise,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    if max_norm is not None or scale_grad_by_freq:
        raise NotRowsError("an embedding with max_norm or scale_grad_by_freq")
    ids = meeting.input(input)
    vectors = meeting.weight_of(weight).embed(ids)
    if padding_idx is None:
        return vectors
    padding = (ids == padding_idx % weight.shape[0]).unsqueeze(-1)  # it gets no gradient
    return torch.where(padding, vectors.detach(), vectors)


# ---- convolutions -------------------------------------------------------------------------------


def _convolution(plain: Any, transposed: bool) -> Rule:
    """Return the rule for a convolution whose bias and options come after the weight."""
    names = ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")

    def convolve(
        meeting: Meeting,
        input: Any,  # noqa: A002
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        *rest: Any,
        **kwargs: Any,
    ) -> Tensor:
        x = as_autocast(meeting.input(input))
        options = {"groups": 1, **dict(zip(names, rest, strict=False)), **kwargs}
        groups = options.pop("groups")

        def apply(x: Tensor, kernel: Tensor, times: int) -> Tensor:
            given = {"stride": stride, "padding": padding, "groups": groups * times, **options}
            return plain(x, as_autocast(kernel), None, **given)

        if x.ndim != weight.ndim:
            raise NotRowsError(f"a convolution of {x.ndim} axes with a kernel of {weight.ndim}")
        if isinstance(weight, RowWise):
            y = meeting.weight_of(weight).convolve(apply, x, transposed, groups)
        else:
            y = apply(x, weight, 1)
        return y if bias is None else y + meeting.vector(bias, y, y.ndim - 2)

    return convolve


for _n in (1, 2, 3):
    for _name, _transposed in ((f"conv{_n}d", False), (f"conv_transpose{_n}d", True)):
        _conv = getattr(F, _name)
        rule(_conv, when=ROWS)(_convolution(_conv, _transposed))


# ---- norms --------------------------------------------------------------------------------------


def _affine(meeting: Meeting, y: Tensor, weight: Any, bias: Any, after: int = 0) -> Tensor:
    y = y if weight is None else y * meeting.vector(weight, y, after)
    return y if bias is None else y + meeting.vector(bias, y, after)


@rule(F.layer_norm, when=ROWS)
def _layer_norm(
    meeting: Meeting,
    input: Any,  # noqa: A002
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Tensor:
    y = F.layer_norm(meeting.input(input), normalized_shape, None, None, eps)
    return meeting.output(_affine(meeting, y, weight, bias), input)


@rule(F.rms_norm, when=ROWS)
def _rms_norm(
    meeting: Meeting,
    input: Any,  # noqa: A002
    normalized_shape: Any,
    weight: Any = None,
    eps: float | None = None,
) -> Tensor:
    y = F.rms_norm(meeting.input(input), normalized_shape, None, eps)
    return meeting.output(_affine(meeting, y, weight, None), input)


@rule(F.group_norm, when=ROWS)
def _group_norm(
    meeting: Meeting,
    input: Any,  # noqa: A002
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Tensor:
    y = F.group_norm(meeting.input(input), num_groups, None, None, eps)
    return _affine(meeting, y, weight, bias, y.ndim - 2)


@rule(F.instance_norm, when=ROWS)
def _instance_norm(
    meeting: Meeting,
    input: Any,  # noqa: A002
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if running_mean is not None or not use_input_stats:
        raise NotRowsError("an instance norm with running statistics")
    y = F.instance_norm(meeting.input(input), eps=eps)
    return _affine(meeting, y, weight, bias, y.ndim - 2)


@rule(F.batch_norm, when=ROWS)
def _batch_norm(
    meeting: Meeting,
    input: Any,  # noqa: A002
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        raise NotRowsError("a norm over the batch: its rows meet")
    x = meeting.input(input)
    after = x.ndim - 2
    if _generated(running_mean, running_var):
        mean, var = (meeting.vector(v, x, after) for v in (running_mean, running_var))
        y = (x - mean) * (var + eps).rsqrt()
    else:
        y = F.batch_norm(x, running_mean, running_var, None, None, False, momentum, eps)
    return _affine(meeting, y, weight, bias, after)


# ---- attention ----------------------------------------------------------------------------------

_attention = without_override_check(F.multi_head_attention_forward)


@rule(F.multi_head_attention_forward, when=ROWS)
def _multi_head(
    meeting: Meeting, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any
) -> Any:
    """The function itself, with its rows at axis 1; what it calls meets the weights."""
    if meeting.alone or query.ndim != 3 or _generated(query, key, value):
        raise NotRowsError("attention of generated tensors, or without rows")
    if args[4] is not None or kwargs.get("bias_k") is not None:
        raise NotRowsError("attention with generated keys (add_bias_kv)")
    with meeting.rows_at(1, query.shape[1]):
        return _attention(query, key, value, *args, **kwargs)


# ---- recurrent layers ---------------------------------------------------------------------------


def _recurrent(plain: Any, num_states: int) -> Rule:
    """A recurrent kernel for each condition on its sequences."""

    def run(meeting: Meeting, input: Any, *args: Any) -> Any:  # noqa: A002
        hx, params, *options = args
        if not isinstance(params, (list, tuple)) or meeting.alone:
            raise NotRowsError("packed sequences")
        batch_first = options[-1]
        states = tuple(hx) if num_states > 1 else (hx,)
        x = input if batch_first else input.transpose(0, 1)
        names = [i for i, p in enumerate(params) if _generated(p)]
        rows = meeting.rows.fit(len(x))

        def one(x: Tensor, *values: Tensor) -> Any:
            state = tuple(s.transpose(0, 1).contiguous() for s in values[:num_states])
            tensors = list(params)
            for i, value in zip(names, values[num_states:], strict=True):
                tensors[i] = value
            first = state if num_states > 1 else state[0]
            y, *last = plain(x, first, tensors, *options[:-1], True)
            return (y, *(s.transpose(0, 1) for s in last))

        start = tuple(s.transpose(0, 1) for s in states)
        y, *last = rows.segments(one, (x, *start), tuple(dense(params[i]) for i in names))
        return (y if batch_first else y.transpose(0, 1), *(s.transpose(0, 1) for s in last))

    return run


for _name, _states in (("lstm", 2), ("gru", 1), ("rnn_tanh", 1), ("rnn_relu", 1)):
    rule(getattr(torch, _name), when=ROWS)(_recurrent(getattr(torch, _name), _states))
