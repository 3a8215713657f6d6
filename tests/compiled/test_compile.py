"""torch.compile on hypernetworks: one graph, the same numbers, no recompilation.

With the backends that need no compiler of C++: `eager` captures the graph and runs it, and
`aot_eager` also captures the backward pass. One small test uses inductor where it works.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch._dynamo.utils import counters

import hyperloom.torch as hl
from tests._support.cases import pick
from tests._support.compare import close
from tests._support.on_torch import shaken
from tests.on_torch.cases import Case, mlp

# What torch.compile imports and does inside.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]

# A compilation takes seconds: each way through the executor once.
EACH = [
    Case("mlp", "full", "whole", "embedding+vector", "mlp-rms"),
    Case("mlp", "chunked-per-condition", "delta-trained", "embedding+noise", "mlp-layer"),
    Case("mlp", "mixed", "whole", "embedding", "none"),
    Case("cnn", "grouped-tiles", "scale", "module", "module"),
    Case("tied", "full", "low-rank", "embedding", "none"),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compiled(hnet: nn.Module, backend: str, **options: Any) -> Callable[..., Any]:
    return torch.compile(hnet, backend=backend, fullgraph=True, **options)


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.slow] if i != 1 else []) for i, c in enumerate(EACH)],
    ids=str,
)
def test_one_graph_is_enough(case: Case) -> None:
    """The numbers and gradients of eager mode; no recompilation for other numbers anywhere."""
    hnet = case.build()
    parameters = list(hnet.parameters())
    fast = compiled(hnet, "aot_eager")
    for i in range(3):
        x, conditions = case.inputs(3), case.conditions(3)
        if isinstance(conditions, Tensor) and not conditions.is_floating_point():
            conditions = conditions.roll(i)
        with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            y = fast(x, condition=conditions)
        expected = hnet(x, condition=conditions)
        close(y, expected)
        weights = torch.randn_like(y)
        found = torch.autograd.grad((y * weights).sum(), parameters, allow_unused=True)
        wanted = torch.autograd.grad((expected * weights).sum(), parameters, allow_unused=True)
        close(found, wanted)
        shaken(hnet)  # a training step
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_a_recompilation_would_be_seen() -> None:
    case = EACH[0]
    fast = compiled(case.build(), "eager", dynamic=False)
    fast(case.inputs(3), condition=case.conditions(3))
    with (
        torch.compiler.set_stance("fail_on_recompile"),
        pytest.raises(RuntimeError, match="recompil"),
    ):
        fast(case.inputs(2), condition=case.conditions(2))


class Residual(nn.Module):
    """A forward of its own: run by vmap, where the mlp is run as a chain of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x).tanh()


@pytest.mark.slow  # the look-ups below are the default suite's
@pytest.mark.parametrize("make", [mlp, Residual])
def test_new_batch_sizes_recompile_once_at_most(make: Callable[[], nn.Module]) -> None:
    """The second size makes the dimension dynamic; after that every size is known."""
    hnet = hl.HyperNetwork(make().double(), condition=hl.Embedding(9, 3), trunk=hl.MLP(4))
    fast = compiled(hnet, "eager")
    for num in (3, 4, 5, 7, 6):
        x, conditions = torch.randn(num, 2, 4, dtype=torch.float64), torch.arange(num) + 2
        with torch.compiler.set_stance("default" if num < 5 else "fail_on_recompile"):
            close(fast(x, condition=conditions), hnet(x, condition=conditions))
    assert counters["stats"]["unique_graphs"] <= 2


PYTHON_IDS: dict[str, list[Any]] = {
    "int": [3, 4, 7, 2],
    "list": [[0, 1, 2], [1, 2, 3], [4, 5, 6], [8, 8, 7]],
    "tuple": [(0, 1, 2), (1, 2, 3), (4, 5, 6)],
    "range": [range(3), range(1, 4), range(4, 7), range(6, 9)],
}


@pytest.mark.parametrize("kind", PYTHON_IDS)
def test_ids_of_python_are_no_constants(kind: str) -> None:
    torch.manual_seed(0)
    hnet = hl.HyperNetwork(Residual().double(), condition=hl.Embedding(9, 3))
    fast, x = compiled(hnet, "eager"), torch.randn(3, 2, 4, dtype=torch.float64)
    x = x[0] if kind == "int" else x
    for i, ids in enumerate(PYTHON_IDS[kind]):
        with torch.compiler.set_stance("default" if i < 2 else "fail_on_recompile"):
            close(fast(x, condition=ids), hnet(x, condition=ids))
    assert counters["stats"]["unique_graphs"] == 2


class Looked(nn.Module):
    """Look-up, and a norm with statistics of each id."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(7, 4), nn.BatchNorm1d(4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.norm(self.table(ids))


def test_look_ups_and_statistics_at_new_batch_sizes() -> None:
    torch.manual_seed(0)
    hnet = hl.HyperNetwork(Looked().double(), condition=hl.Embedding(9, 3))
    plain = copy.deepcopy(hnet)
    fast = compiled(hnet, "eager")
    for num in (3, 4, 5, 7):
        x, conditions = torch.randint(7, (num, 6)), torch.arange(num) + 2
        with torch.compiler.set_stance("default" if num < 5 else "fail_on_recompile"):
            close(fast(x, condition=conditions), plain(x, condition=conditions))
        close(hnet.state_dict(), plain.state_dict())
    assert counters["stats"]["unique_graphs"] <= 2


def test_one_condition() -> None:
    case = Case("mlp", "mixed", "whole", "embedding", "none")
    hnet, x = case.build(), case.inputs()
    fast = compiled(hnet, "eager")
    for i, condition in enumerate(case.conditions(3)):
        with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            close(fast(x, condition=condition), hnet(x, condition=condition))


def test_generate_and_run_in_a_compiled_training_step() -> None:
    """An inner step on generated tensors and a regulariser, in one graph."""
    case = Case("mlp", "chunked", "whole", "embedding", "mlp-rms")
    hnet, x, conditions = case.build(), case.inputs(3), case.conditions(3)
    old = {name: value.detach() for name, value in hnet.generate(conditions).items()}

    def step(x: Tensor, ids: Tensor) -> Tensor:
        made = hnet.generate(ids)
        y = hnet.run(made, x)
        kept = torch.stack([(made[n] - old[n]).square().sum() for n in made]).sum()
        return y.square().mean() + 0.1 * kept

    fast = torch.compile(step, backend="aot_eager", fullgraph=True)
    ids = conditions.roll(1)
    parameters = list(hnet.parameters())
    found, wanted = fast(x, ids), step(x, ids)
    close(found, wanted)
    close(torch.autograd.grad(found, parameters), torch.autograd.grad(wanted, parameters))


def test_training_and_eval_are_two_graphs() -> None:
    target = nn.Sequential(nn.Linear(4, 40), nn.Dropout(0.5), nn.Linear(40, 40))
    hnet = hl.HyperNetwork(target, condition=hl.Embedding(3, 2))
    x, ids = torch.randn(2, 5, 4), torch.tensor([0, 2])
    fast = compiled(hnet, "eager")
    assert not torch.equal(fast(x, condition=ids), fast(x, condition=ids))
    hnet.eval()
    assert torch.equal(fast(x, condition=ids), fast(x, condition=ids))
    torch.testing.assert_close(fast(x, condition=ids), hnet(x, condition=ids))


def test_a_target_that_breaks_the_graph_is_said() -> None:
    class Printing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return self.layer(x)

    hnet = hl.HyperNetwork(Printing(), condition=hl.Embedding(3, 2))
    with pytest.raises(Unsupported):
        compiled(hnet, "eager")(torch.randn(2, 5, 4), condition=torch.tensor([0, 1]))


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="needs a C++ compiler")
def test_inductor() -> None:
    case = Case("mlp", "chunked", "whole", "embedding", "mlp-rms")
    hnet, x, conditions = case.build(), case.inputs(3), case.conditions(3)
    close(compiled(hnet, "inductor")(x, condition=conditions), hnet(x, condition=conditions))
    one = pick(conditions, 1)
    close(compiled(hnet, "inductor")(x[1], condition=one), hnet(x[1], condition=one))


def test_a_compiled_module_as_target_is_the_module_in_it() -> None:
    target = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    compiled: Any = torch.compile(target, backend="eager")
    hnet = hl.HyperNetwork(compiled, condition=hl.Embedding(4, 3))
    assert [tensor.name for tensor in hnet.plan.spec] == [
        name for name, _ in target.named_parameters()
    ]
    x, ids = torch.randn(3, 5, 3), torch.tensor([2, 0, 3])
    loop = torch.stack([hnet.instantiate(i)(a) for i, a in zip(ids, x, strict=True)])
    torch.testing.assert_close(hnet(x, condition=ids), loop)


# What dynamo asks of an input that was computed.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_condition_that_carries_a_state() -> None:
    """The state goes in and out of the graph; another batch size is at most one more graph."""
    torch.manual_seed(0)
    hnet = hl.HyperNetwork(mlp().double(), condition=hl.Recurrent(4, 5), trunk=hl.MLP(6))
    fast = compiled(hnet, "eager", dynamic=False)
    state, expected_state = None, None
    for step in range(4):
        x = torch.randn(6, 4, dtype=torch.float64)
        y, state = fast(x, condition=x, carry=state)
        expected, expected_state = hnet(x, condition=x, carry=expected_state)
        close((y, state), (expected, expected_state))
        # Without a state, and with one; then nothing new.
        assert counters["stats"]["unique_graphs"] == min(step + 1, 2)


@pytest.mark.parametrize("norm", [nn.LayerNorm, lambda width: nn.GroupNorm(2, width)])
def test_norms_after_a_layer_have_the_dtype_of_eager(norm: Any) -> None:
    hnet = hl.HyperNetwork(
        nn.Sequential(nn.Linear(8, 8), norm(8), nn.Softmax(-1)), condition=hl.Embedding(4, 3)
    )
    x, ids = torch.randn(3, 5, 8), torch.tensor([0, 1, 2])
    compiled = torch.compile(hnet, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, eager = compiled(x, condition=ids), hnet(x, condition=ids)
    assert ours.dtype == eager.dtype == torch.bfloat16
    torch.testing.assert_close(ours, eager, rtol=0.05, atol=0.05)
