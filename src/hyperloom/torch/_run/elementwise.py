"""Modules that treat every number alike: those of PyTorch by class, the user's by their code.

An activation of the user's is traced once, when the target is read. Its code has to be a straight
line of functions that are known to treat every number alike, of the input and of numbers that the
module holds: what it does is then the same at every call, whatever shape the input has.
"""

from __future__ import annotations

import dis
import math
import operator
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

_CLASSES = frozenset(
    {
        nn.CELU,
        nn.Dropout,
        nn.ELU,
        nn.GELU,
        nn.Hardsigmoid,
        nn.Hardswish,
        nn.Hardtanh,
        nn.Identity,
        nn.LeakyReLU,
        nn.LogSigmoid,
        nn.Mish,
        nn.ReLU,
        nn.ReLU6,
        nn.SELU,
        nn.SiLU,
        nn.Sigmoid,
        nn.Softplus,
        nn.Softsign,
        nn.Tanh,
        nn.Tanhshrink,
    }
)

_NAMES = """
abs absolute acos acosh add asin asinh atan atan2 atanh ceil clamp clip cos cosh div divide
erf erfc exp exp2 expm1 floor log log10 log1p log2 maximum minimum mul multiply neg negative pow
reciprocal relu round rsqrt sigmoid sign sin sinc sinh sqrt square sub subtract tan tanh
true_divide trunc
"""
_ACTIVATIONS = """
celu elu gelu hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu relu6 selu sigmoid
silu softplus softsign tanh tanhshrink
"""
_OPERATORS = "abs add mul neg pow pos sub truediv"
_METHODS = frozenset(_NAMES.split())
_FUNCTIONS = frozenset(
    getattr(owner, name)
    for owner, names in ((torch, _NAMES), (F, _ACTIVATIONS), (operator, _OPERATORS))
    for name in names.split()
)
_OF_MODULES = frozenset(vars(nn.Module()))


def is_elementwise(module: nn.Module) -> bool:
    """Whether a module without hooks does to every number what it does to one alone."""
    if type(module) in _CLASSES:
        return not getattr(module, "inplace", False)
    return _is_plain(module) and _is_straight(module) and _treats_alike(module)


def read_by(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Yield what the user's activation holds: its attributes, and name and value of each."""
    if type(module).__module__.startswith("torch."):
        return
    for name, value in vars(module).items():
        if name not in _OF_MODULES:
            yield vars(module), name, value


def _is_plain(module: nn.Module) -> bool:
    """Whether it holds numbers and texts only, and is called as modules are."""
    kind = type(module)
    if module._parameters or module._buffers or module._modules:
        return False
    if kind.__call__ is not nn.Module.__call__ or kind.__getattr__ is not nn.Module.__getattr__:
        return False
    own = (value for name, value in vars(module).items() if name not in _OF_MODULES)
    return all(type(value) in (int, float, bool, str, type(None)) for value in own)


def _is_straight(module: nn.Module) -> bool:
    """Whether its code has no branches, stores nothing, and reads itself and PyTorch only."""
    forward: Any = type(module).forward
    if type(forward) is not FunctionType or forward.__closure__ or forward.__defaults__:
        return False
    code = forward.__code__
    if code.co_argcount != 2 or code.co_kwonlyargcount or code.co_flags & 0x2C:  # *, **, yield
        return False
    if code.co_names and "training" in code.co_names:
        return False
    held = vars(module)
    for step in dis.get_instructions(code):
        if step.opcode in dis.hasjrel or step.opcode in dis.hasjabs:
            return False
        if step.opname.startswith(("STORE_", "DELETE_", "IMPORT_")) and "FAST" not in step.opname:
            return False
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            known = forward.__globals__.get(step.argval)
            if not (_is_known(known) or (isinstance(known, ModuleType) and _holds_known(known))):
                return False
    return not any(
        name in vars(k) and name not in held for k in _own(module) for name in code.co_names
    )


def _own(module: nn.Module) -> Iterator[type]:
    """Yield the classes of a module that are the user's."""
    for kind in type(module).__mro__:
        if kind is nn.Module:
            return
        yield kind


def _is_known(value: Any) -> bool:
    return (
        callable(value)
        and isinstance(value, type(torch.sin) | FunctionType)
        and value in _FUNCTIONS
    )


def _holds_known(module: ModuleType) -> bool:
    return module in (torch, F, torch.nn, math)


def _treats_alike(module: nn.Module) -> bool:
    """Whether all that is done, in a trace, treats every number alike."""
    try:
        nodes = list(fx.Tracer().trace(module).nodes)
    except Exception:  # whatever a trace cannot follow is no such module
        return False
    if len(nodes) < 3 or nodes[0].op != "placeholder" or not isinstance(nodes[-1].args[0], fx.Node):
        return False
    return all(_is_alike(node) for node in nodes[1:-1])


def _is_alike(node: fx.Node) -> bool:
    given = (*node.args, *node.kwargs.values())
    if not all(isinstance(value, fx.Node) or type(value) in (int, float, str) for value in given):
        return False  # a bool may say that it is done in place
    if not node.args or "out" in node.kwargs:
        return False
    if node.op == "call_method":
        return node.target in _METHODS
    return node.op == "call_function" and node.target in _FUNCTIONS
