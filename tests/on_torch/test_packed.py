"""Bases that are no float parameters: quantised layers are run as they are, and added to."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom._core.choices.forms import Form
from hyperloom.torch._generate.generator import parts_of

make_tensor: Any = Tensor._make_wrapper_subclass  # type: ignore[attr-defined]


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix as int8 and a number for each row."""
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale).round().to(torch.int8), scale


class OfBuffers(nn.Module):
    """A quantised layer: int8 and scales are buffers."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        integers, scale = rounded(torch.randn(outputs, inputs))
        self.register_buffer("integers", integers)
        self.register_buffer("scale", scale)
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        self.last = x.shape
        weight = self.get_buffer("integers").to(x.dtype) * self.get_buffer("scale").to(x.dtype)
        return F.linear(x, weight, self.bias)


class Int8Params(nn.Parameter):
    """A parameter of integers that carries its scales."""

    scale: Tensor

    @staticmethod
    def of(data: Tensor, scale: Tensor) -> Int8Params:
        parameter = data.as_subclass(Int8Params)
        parameter.scale = scale
        return parameter


class OfParameter(nn.Linear):
    """A quantised layer whose weight is of a class of its own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        integers, scale = rounded(self.weight.detach())
        self.weight = Int8Params.of(integers, scale)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight: Any = self.weight
        return F.linear(x, weight.to(x.dtype) * weight.scale.to(x.dtype), self.bias)


class Int8Tensor(Tensor):
    """A tensor of integers and scales that says it is one of floats, as torchao's do."""

    @staticmethod
    def __new__(cls, integers: Tensor, scale: Tensor) -> Any:
        return make_tensor(cls, integers.shape, dtype=scale.dtype, device=scale.device)

    def __init__(self, integers: Tensor, scale: Tensor) -> None:
        self.integers, self.scale = integers, scale

    def __tensor_flatten__(self) -> Any:
        return ["integers", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: Any, *_: Any) -> Any:
        return cls(inner["integers"], inner["scale"])

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            x, weight, *bias = args
            return F.linear(x, weight.integers.to(x.dtype) * weight.scale, *bias)
        return super().__torch_function__(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].integers, args[0].scale)
        raise NotImplementedError(func)


def of_tensor(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    layer.weight = nn.Parameter(Int8Tensor(*rounded(layer.weight.detach())), requires_grad=False)
    return layer


def dynamic(inputs: int, outputs: int) -> nn.Module:
    """PyTorch's own: packed in an object, with the bias; rows are quantised together."""
    plain = nn.Sequential(nn.Linear(inputs, outputs))
    with warnings.catch_warnings(action="ignore"):  # it moves to another package
        quantize: Any = torch.ao.quantization.quantize_dynamic  # pyright: ignore
        quantised = quantize(plain, {nn.Linear}, dtype=torch.qint8)
    return quantised[0]


LAYERS = {"buffers": OfBuffers, "parameter": OfParameter, "tensor": of_tensor, "dynamic": dynamic}
FORMS = [hl.LoRA(2), hl.Scale(), hl.Scale(inputs=True), hl.RankOne(), hl.Shift()]


def target_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), LAYERS[kind](6, 5))


def hypernetwork(target: nn.Module, form: Form, **options: Any) -> hl.HyperNetwork:
    return hl.HyperNetwork(
        target,
        condition=hl.Embedding(3, 4),
        layout={"2.weight": hl.Full()},
        form={"2.weight": form},
        **options,
    )


@torch.no_grad()
def shaken(hnet: hl.HyperNetwork) -> hl.HyperNetwork:
    for parameter in hnet.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3)
    return hnet


def changed(layer: nn.Module, form: Form, parts: list[Tensor], x: Tensor) -> Tensor:
    """Return what a layer gives with the parts of a form added to it, by its definition."""
    bias = layer(torch.zeros(1, x.shape[-1]))
    if isinstance(form, hl.LoRA):
        return layer(x) + x @ parts[1].mT @ parts[0].mT
    if isinstance(form, hl.Shift):
        return layer(x) + x.sum(-1, keepdim=True) * parts[0].mT
    if form == hl.Scale(inputs=True):
        return layer(x * (1 + parts[0]))
    columns = 1 + parts[1] if len(parts) > 1 else 1
    return (layer(x * columns) - bias) * (1 + parts[0].mT) + bias


@pytest.mark.filterwarnings("ignore::hyperloom.torch.SlowWarning")
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_packed_layer_is_run_as_it_is_and_added_to(kind: str, form: Form) -> None:
    target = target_of(kind)
    hnet, x = shaken(hypernetwork(target, form)), torch.randn(3, 2, 4)
    y = hnet(x, condition=[0, 1, 2])
    hidden = target[:2](x)  # type: ignore[index]
    encoded = hnet.encode([0, 1, 2])
    pieces = [part.detach() for part in parts_of(hnet, encoded)]
    for i in range(3):
        wanted = changed(target[2], form, [part[i] for part in pieces], hidden[i])  # type: ignore[index]
        torch.testing.assert_close(y[i], wanted)
        torch.testing.assert_close(hnet(x[i], condition=i), wanted)
        torch.testing.assert_close(hnet.bind(i)(x[i]), wanted)
    if kind == "dynamic":  # PyTorch has no gradient to its inputs
        return
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in hnet.heads.parameters())


@pytest.mark.parametrize("kind", ["buffers", "parameter", "tensor"])
def test_rows_of_many_conditions_meet_a_packed_layer_once(kind: str) -> None:
    hnet = shaken(hypernetwork(target_of(kind), hl.LoRA(2)))
    x, index = torch.randn(7, 4), torch.tensor([2, 0, 0, 1, 2, 0, 2])
    y = hnet(x, condition=[0, 1, 2], rows=index)
    alone = torch.stack([hnet(row, condition=int(i)) for row, i in zip(x, index, strict=True)])
    torch.testing.assert_close(y, alone)
    torch.testing.assert_close(hnet.bind([0, 1, 2], rows=index)(x), alone)
    assert hnet.explain(x, condition=[0, 1, 2], rows=index).strategy == "rows"


def test_the_layer_stays_the_users_and_its_memory_is_shared() -> None:
    target = target_of("buffers")
    hnet = hypernetwork(target, hl.LoRA(2))
    hnet(torch.randn(3, 2, 4), condition=[0, 1, 2])
    layer: Any = target[2]  # type: ignore[index]
    integers = layer.integers
    assert type(layer) is OfBuffers
    assert not hasattr(layer, "last")
    tree: Any = hnet.get_submodule("bases.2")
    base = tree.references["weight"]
    assert base.layer.module.integers.data_ptr() == integers.data_ptr()
    assert {*hnet.state_dict()} == {*dict(hnet.named_parameters()), "base_fingerprint"}


@pytest.mark.parametrize("kind", ["buffers", "parameter", "tensor"])
def test_copies_and_other_dtypes(kind: str) -> None:
    target = target_of(kind)
    hnet, x = shaken(hypernetwork(target, hl.LoRA(2))), torch.randn(3, 2, 4)
    y = hnet(x, condition=[0, 1, 2])
    torch.testing.assert_close(copy.deepcopy(hnet)(x, condition=[0, 1, 2]), y)
    if kind != "tensor":  # the class above has no other dtypes
        double = hnet.double()(x.double(), condition=[0, 1, 2])
        torch.testing.assert_close(double.float(), y)
        assert all(p.dtype == torch.float32 for p in target.parameters() if p.is_floating_point())


@pytest.mark.parametrize("kind", ["buffers", "parameter", "tensor"])
def test_what_is_not_generated_stays_of_its_class(kind: str) -> None:
    target = target_of(kind)
    layer: Any = target[2]  # type: ignore[index]
    hnet = hl.HyperNetwork(
        target,
        condition=hl.Embedding(3, 4),
        layout={"0.weight": hl.Full()},
        form={"0.weight": hl.LoRA(2)},
    )
    net: Any = hnet.bind(1)
    assert type(net[2]) is type(layer)
    assert type(net[2]._parameters.get("weight")) is type(layer._parameters.get("weight"))
    x = torch.randn(3, 2, 4)
    torch.testing.assert_close(hnet(x, condition=[0, 1, 2]), target(x))


@pytest.mark.parametrize("kind", ["buffers", "parameter", "tensor"])
def test_a_file_has_what_is_learned_and_knows_its_base(kind: str, tmp_path: Any) -> None:
    target, x = target_of(kind), torch.randn(3, 2, 4)
    hnet = shaken(hypernetwork(target, hl.LoRA(2)))
    hl.save(hnet, tmp_path / "a.safetensors")
    again = hl.load(tmp_path / "a.safetensors", target)
    y = hnet(x, condition=[0, 1, 2])
    torch.testing.assert_close(again(x, condition=[0, 1, 2]), y)
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), LAYERS[kind](6, 5))
    with pytest.raises(hl.CheckpointError, match="got a target with another base; wanted the base"):
        hl.load(tmp_path / "a.safetensors", other)
    with pytest.raises(
        TypeError, match=r"with_base: got True for a base whose 'bases.2.weight' is"
    ):
        hl.save(hnet, tmp_path / "b.safetensors", with_base=True)


@pytest.mark.parametrize("form", [hl.Whole(), hl.Delta(), hl.DoRA(2), hl.LoRA(2, trained=True)])
def test_what_needs_the_numbers_is_refused(form: Form) -> None:
    text = r"form: got .* for '2.weight', whose numbers are packed in its layer; wanted a form that"
    with pytest.raises(TypeError, match=text):
        hypernetwork(target_of("buffers"), form)


@pytest.mark.parametrize("kind", ["buffers", "parameter", "tensor"])
def test_tensors_and_modules_are_formed_from_what_the_layer_does(kind: str) -> None:
    target, x = target_of(kind), torch.randn(3, 2, 4)
    hnet = shaken(hypernetwork(target, hl.LoRA(2)))
    y = hnet(x, condition=[0, 1, 2])
    hidden = target[:2](x[1])  # type: ignore[index]
    weight, bias = hnet.generate(1)["2.weight"], target[2].bias  # type: ignore[index]
    torch.testing.assert_close(F.linear(hidden, weight, bias), y[1])
    torch.testing.assert_close(hnet.instantiate(1)(x[1]), y[1])
    torch.testing.assert_close(hnet.run(hnet.factors([0, 1, 2]), x), y)
    hnet.doctor(x, condition=[0, 1, 2])


def test_a_name_that_is_missing_knows_packed_weights() -> None:
    with pytest.raises(ValueError, match=r"form: got the pattern '3.weight'.*'2.weight'"):
        hl.HyperNetwork(
            target_of("buffers"), condition=hl.Embedding(3, 4), form={"3.weight": hl.LoRA(2)}
        )
