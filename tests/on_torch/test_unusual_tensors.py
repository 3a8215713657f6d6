"""Tensors of unusual kinds: sparse buffers, quantised weights that are kept, places to scatter."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

import hyperloom.torch as hl
from tests.on_torch.silent import IDS, close_and_some, gradients, inputs, made

pytestmark = [
    pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning"),
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
]
LORA: dict[str, Any] = {"layout": {"last.weight": hl.Full()}, "form": {"last.weight": hl.LoRA(1)}}
CHOICES: dict[str, Any] = {"whole": {"layout": {"last.*": hl.Full()}}, "lora": LORA}

# ---- sparse buffers -----------------------------------------------------------------------------


class OnGraph(nn.Module):
    """A layer, and a product with the adjacency of a graph."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.last = nn.Linear(4, 4)
        dense = torch.eye(5) / 2 + torch.diag(torch.ones(4), 1)
        self.register_buffer(
            "graph", dense.to_sparse() if layout == "coo" else dense.to_sparse_csr()
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(self.graph, self.last(x))


@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_sparse_buffers(layout: str, choices: str, tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        module = OnGraph(layout)
    finally:
        torch.set_default_dtype(torch.float32)
    hnet, x = made(module, **CHOICES[choices]), inputs(5, 4)
    dense = {"graph": module.get_buffer("graph").to_dense()}
    made_of = [
        functional_call(module.last, {n.removeprefix("last."): t for n, t in p.items()}, y)
        for p, y in ((hnet.generate(i), x[i]) for i in IDS)
    ]
    wanted = torch.stack([dense["graph"] @ y for y in made_of])
    theirs = gradients(hnet, wanted)
    for strategy in ("auto", "vmap", "loop"):
        hnet.execution = hl.Execution(strategy=strategy)  # type: ignore[arg-type]
        for _ in range(2):
            y = hnet(x, condition=IDS)
            torch.testing.assert_close(y, wanted)
            close_and_some(gradients(hnet, y), theirs)
    torch.testing.assert_close(hnet(x[1], condition=1), wanted[1])
    torch.testing.assert_close(hnet.instantiate(1)(x[1]), wanted[1])
    torch.testing.assert_close(hnet.bind(IDS)(x), wanted)
    hnet.doctor(x, condition=IDS)
    hl.save(hnet, tmp_path / "sparse")
    with torch.no_grad():  # what is loaded is the file's
        graph = module.get_buffer("graph")
        (graph._values() if layout == "coo" else graph.values()).zero_()
    again = hl.load(tmp_path / "sparse", module)
    torch.testing.assert_close(again(x, condition=IDS), wanted)


def test_a_sparse_buffer_that_is_written() -> None:
    class Grows(OnGraph):
        def forward(self, x: Tensor) -> Tensor:
            self.graph = self.graph * 2
            return super().forward(x)

    module, x = Grows("coo"), inputs(5, 4).float()
    hnet, singles = made(module), made(module)
    for _ in range(2):
        wanted = torch.stack([singles(x[i], condition=i) for i in IDS])
        torch.testing.assert_close(hnet(x, condition=IDS), wanted)


# ---- weights of classes of their own ------------------------------------------------------------


class Scaled(nn.Parameter):
    """Integers with a scale for each row, as `Int8Params` of bitsandbytes."""

    scales: Tensor

    @staticmethod
    def of(numbers: Tensor, scales: Tensor) -> Scaled:
        made_of: Any = Tensor._make_subclass(Scaled, numbers, False)  # pyright: ignore
        made_of.scales = scales
        return made_of

    def __deepcopy__(self, memo: dict[int, Any]) -> Scaled:
        memo[id(self)] = Scaled.of(self.data.clone(), self.scales.clone())
        return memo[id(self)]


class Wrapped(Tensor):
    """Integers that are numbers where they are used, as tensors of torchao."""

    numbers: Tensor
    scales: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor, scales: Tensor) -> Any:
        make: Any = Tensor._make_wrapper_subclass  # pyright: ignore[reportAttributeAccessIssue]
        return make(cls, numbers.shape, dtype=scales.dtype, device=numbers.device)

    def __init__(self, numbers: Tensor, scales: Tensor) -> None:
        self.numbers, self.scales = numbers, scales

    def __tensor_flatten__(self) -> Any:
        return ["numbers", "scales"], None

    @staticmethod
    def __tensor_unflatten__(inner: Any, meta: Any, size: Any, stride: Any) -> Any:
        return Wrapped(inner["numbers"], inner["scales"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.clone.default):
            return Wrapped(args[0].numbers.clone(), args[0].scales.clone())
        plain = tree_map_only(
            Wrapped, lambda w: w.numbers * w.scales[:, None], (args, kwargs or {})
        )
        return func(*plain[0], **plain[1])


class Quantised(nn.Module):
    """A kept layer of integers, and a layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        numbers, scales = torch.randint(-99, 99, (4, 4), dtype=torch.int8), torch.rand(4).double()
        plain = nn.Parameter(torch.randn(4, 4).double())
        plain.scales = scales  # type: ignore[attr-defined]
        self.weight: Any = {
            "subclass": lambda: Scaled.of(numbers, scales),
            "wrapper": lambda: nn.Parameter(Wrapped(numbers, scales), False),
            "attribute": lambda: plain,
        }[kind]()
        self.kind, self.last = kind, nn.Linear(4, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "wrapper":
            return self.last(nn.functional.linear(x, self.weight))
        return self.last(x @ (self.weight.to(x.dtype) * self.weight.scales[:, None]).mT)


WAYS: dict[str, Any] = {
    "batch": lambda hnet, x: hnet(x, condition=IDS),
    "again": lambda hnet, x: hnet(x, condition=IDS),
    "alone": lambda hnet, x: torch.stack([hnet(x[i], condition=i) for i in IDS]),
    "plain": lambda hnet, x: torch.stack([hnet.instantiate(i)(x[i]) for i in IDS]),
    "bound": lambda hnet, x: hnet.bind(IDS)(x),
    "copy": lambda hnet, x: copy.deepcopy(hnet)(x, condition=IDS),
    "loop": lambda hnet, x: _by(hnet, "loop")(x, condition=IDS),
    "rows": lambda hnet, x: _by(hnet, "rows")(x, condition=IDS),
}


def _by(hnet: hl.HyperNetwork, strategy: Any) -> hl.HyperNetwork:
    hnet.execution = hl.Execution(strategy=strategy)
    return hnet


@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize("kind", ["subclass", "wrapper", "attribute"])
def test_weights_of_classes_of_their_own_are_kept(kind: str, choices: str, tmp_path: Path) -> None:
    module, x = Quantised(kind), inputs()
    hnet = made(module, **CHOICES[choices])
    plain = [functional_call(module, hnet.generate(i), (x[i],)) for i in IDS]  # not of a copy
    wanted = torch.stack(plain)
    theirs = gradients(hnet, wanted)
    for name, way in WAYS.items():
        y = way(hnet, x)
        torch.testing.assert_close(y, wanted, msg=lambda text, n=name: f"{n}: {text}")
        if name not in ("copy", "plain"):
            close_and_some(gradients(hnet, y), theirs)
    assert type(hnet.instantiate(0).weight) is type(module.weight)
    hl.save(hnet, tmp_path / "kept")
    torch.testing.assert_close(hl.load(tmp_path / "kept", module)(x, condition=IDS), wanted)
    if kind != "wrapper":
        again = pickle.loads(pickle.dumps(hnet))
        torch.testing.assert_close(again(x, condition=IDS), wanted)


# ---- scatter ------------------------------------------------------------------------------------


class Scatters(nn.Module):
    def __init__(self, name: str, index: Tensor) -> None:
        super().__init__()
        self.name, self.index, self.last = name, index, nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        into, source = torch.zeros(4, 4, dtype=x.dtype), self.last.weight
        if self.name == "reduce":
            return x @ into.scatter_reduce(0, self.index, src=source, reduce="sum")
        return x @ getattr(into, self.name)(0, self.index, source)


@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize("name", ["scatter", "scatter_add", "reduce"])
def test_gradients_of_numbers_that_are_scattered(name: str, choices: str) -> None:
    """PyTorch's own gradient is for as many numbers as places: of a plain module it is an error."""
    for index in (torch.zeros(1, 4), torch.tensor([[0, 1]]), torch.arange(16).reshape(4, 4) % 4):
        index = index.long()
        module, x = Scatters(name, index).double(), inputs()
        hnet = made(module, **CHOICES[choices])
        y, weight = hnet(x, condition=IDS), hnet.generate(IDS)["last.weight"]
        sources = weight[:, : index.shape[0], : index.shape[1]]
        into = torch.zeros(4, 4, dtype=x.dtype)
        put = into.scatter if name == "scatter" else into.scatter_add
        wanted = torch.stack([a @ put(0, index, s) for a, s in zip(x, sources, strict=True)])
        torch.testing.assert_close(y, wanted)
        close_and_some(gradients(hnet, y), gradients(hnet, wanted))
