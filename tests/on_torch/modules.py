"""Real modules as targets: what is in torch.nn, and what users write around it."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import hyperloom.torch as hl
from tests._support import compare
from tests._support.on_torch import shaken

NUM = 3


def floats(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(NUM, *shape, dtype=torch.float64)


def tokens(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, 5, (NUM, *shape))


# ---- targets that are not in torch.nn -----------------------------------------------------------


class Residual(nn.Module):
    """A block of a ResNet."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, padding=1, bias=False), norm(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), norm(4)
        self.down = nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.silu(self.bn1(self.conv1(x)))))
        return F.silu(y + self.down(x))


class Autoencoder(nn.Module):
    """The decoder is the encoder's weight, transposed in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 4))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(x, self.weight)), self.weight.t(), self.bias)


class Attributes(nn.Module):
    """Plain tensors, a non-persistent buffer, an integer buffer, lists and dicts of parameters."""

    window: Tensor
    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.linspace(-1, 1, 4, dtype=torch.float64)
        self.scales = [torch.tensor(2.0, dtype=torch.float64)]
        self.register_buffer("window", torch.linspace(0, 1, 4), persistent=False)
        self.register_buffer("order", torch.tensor([2, 0, 3, 1]))
        self.register_buffer("nothing", None)
        self.layers = nn.ParameterList([nn.Parameter(torch.randn(4, 4)) for _ in range(2)])
        self.named = nn.ParameterDict({"gain": nn.Parameter(torch.tensor(1.5))})
        self.register_parameter("no_bias", None)

    def forward(self, x: Tensor) -> Tensor:
        x = (x + self.table) * self.window[self.order] * self.scales[0]
        for weight in self.layers:
            x = torch.sin(x @ weight)
        return x * self.named["gain"]


class Shared(nn.Module):
    """One submodule under two names, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class Doubled(nn.Linear):
    """A subclass of a layer that torch knows, with a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return 2 * super().forward(input)


class Outputs(NamedTuple):
    y: Tensor
    extra: dict[str, Any]


class Structured(nn.Module):
    """Inputs by keyword and in a dict, outputs in a named tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs: dict[str, Tensor], *, scale: Tensor, power: int = 1) -> Outputs:
        y = self.layer(inputs["x"]) * scale**power
        return Outputs(y, {"norm": y.norm(), "layers": [inputs["x"], y]})


class Writer(nn.Module):
    """Writes into a buffer in place, and replaces another."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))
        self.register_buffer("seen", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += x.detach().mean(0) * self.weight.detach()
        self.count = self.count + 1
        return x * self.weight + self.seen * self.count


class Nested(nn.Module):
    """A hypernetwork inside the target: its heads are generated."""

    def __init__(self) -> None:
        super().__init__()
        inner = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
        self.hnet = hl.HyperNetwork(inner.double(), condition=hl.Vector(2))
        shaken(self.hnet)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return self.hnet(x, condition=code)


def options() -> nn.Module:
    """A chain of layers none of which has its default options."""
    return nn.Sequential(
        nn.Linear(4, 5, bias=False),
        nn.LayerNorm(5, eps=0.3),
        nn.Sequential(nn.GELU("tanh"), nn.Identity(), nn.LeakyReLU(0.4)),
        nn.LayerNorm(5, elementwise_affine=False, eps=0.2),
        nn.Softplus(beta=3, threshold=1),
        nn.LayerNorm(5, bias=False),
        nn.CELU(0.2),
        nn.Linear(5, 3),
    )


def tied_sequential() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.ReLU(inplace=True), Doubled(4, 2))


def _tripled(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 3


def hooked() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    net[0].register_forward_hook(_tripled)
    net[2].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    return net


def patched() -> nn.Module:
    """An instance whose forward was replaced."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    net[0].forward = types.MethodType(lambda self, x: type(self).forward(self, x) * 3, net[0])
    return net


def weight_norm() -> nn.Module:
    wrap = nn.utils.parametrizations.weight_norm
    return nn.Sequential(wrap(nn.Linear(4, 3)), nn.Tanh(), wrap(nn.Linear(3, 2)))


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)), nn.Tanh())


def orthogonal(name: str) -> Callable[[], nn.Module]:
    return lambda: nn.utils.parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map=name)


def encoder(**options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True, **options)


class Attended(nn.Module):
    """Self-attention with a causal mask; returns weights too."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool).triu(1)
        return self.attention(x, x, x, attn_mask=mask)


Row = tuple[str, Callable[[], nn.Module], tuple[Callable[[], Tensor], ...]]

TARGETS: list[Row] = [
    ("residual-groupnorm", lambda: Residual(lambda n: nn.GroupNorm(2, n)), (floats(2, 2, 5, 5),)),
    ("residual-instancenorm", lambda: Residual(nn.InstanceNorm2d), (floats(2, 2, 5, 5),)),
    (
        "residual-batchnorm",
        lambda: Residual(lambda n: nn.BatchNorm2d(n, track_running_stats=False)),
        (floats(2, 2, 5, 5),),
    ),
    ("encoder", encoder(), (floats(2, 5, 4),)),
    ("encoder-norm-first", encoder(norm_first=True, activation="gelu"), (floats(2, 5, 4),)),
    ("encoder-no-bias", encoder(bias=False), (floats(2, 5, 4),)),
    ("attention", Attended, (floats(2, 5, 4),)),
    (
        "attention-other-widths",
        lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=2),
        (floats(5, 2, 4), floats(5, 2, 3), floats(5, 2, 2)),
    ),
    ("attention-bias-kv", lambda: Attended(add_bias_kv=True), (floats(2, 5, 4),)),
    ("conv1d-same", lambda: nn.Conv1d(2, 4, 3, padding="same", dilation=2), (floats(2, 2, 6),)),
    (
        "conv2d-circular",
        lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
        (floats(2, 2, 5, 5),),
    ),
    ("conv2d-grouped", lambda: nn.Conv2d(4, 6, 3, groups=2, stride=2), (floats(2, 4, 5, 5),)),
    ("conv2d-unbatched", lambda: nn.Conv2d(2, 4, 3), (floats(2, 5, 5),)),
    ("conv3d", lambda: nn.Conv3d(1, 2, 2), (floats(1, 1, 3, 3, 3),)),
    ("conv-transpose1d", lambda: nn.ConvTranspose1d(4, 3, 3, stride=2), (floats(2, 4, 5),)),
    (
        "conv-transpose2d",
        lambda: nn.ConvTranspose2d(4, 2, 3, groups=2, padding=1),
        (floats(2, 4, 4, 4),),
    ),
    ("embedding", lambda: nn.Embedding(5, 3, padding_idx=1), (tokens(2, 4),)),
    ("embedding-bag", lambda: nn.EmbeddingBag(5, 3, mode="sum"), (tokens(2, 4),)),
    ("bilinear", lambda: nn.Bilinear(2, 3, 4), (floats(5, 2), floats(5, 3))),
    ("prelu", lambda: nn.Sequential(nn.Linear(4, 3), nn.PReLU(3)), (floats(5, 4),)),
    ("rms-norm", lambda: nn.Sequential(nn.Linear(4, 3), nn.RMSNorm(3)), (floats(5, 4),)),
    ("layer-norm-2d", lambda: nn.LayerNorm([2, 4]), (floats(5, 2, 4),)),
    ("one-row", lambda: nn.Sequential(nn.Linear(4, 3), nn.GELU()), (floats(4),)),
    ("options", options, (floats(5, 4),)),
    ("autoencoder", Autoencoder, (floats(5, 4),)),
    ("attributes", Attributes, (floats(5, 4),)),
    ("shared-submodule", Shared, (floats(5, 4),)),
    ("tied-sequential", tied_sequential, (floats(5, 4),)),
    ("hooked", hooked, (floats(5, 4),)),
    ("patched", patched, (floats(5, 4),)),
    ("writer", Writer, (floats(5, 4),)),
    ("hypernetwork", Nested, (floats(5, 4), floats(2))),
    ("weight-norm", weight_norm, (floats(5, 4),)),
    ("old-weight-norm", old_weight_norm, (floats(5, 4),)),
    *((f"orthogonal-{n}", orthogonal(n), (floats(5, 4),)) for n in ("cayley", "householder")),
]


# ---- what the tests do with them ----------------------------------------------------------------


def with_target(
    make: Callable[[], nn.Module], layout: Any = None
) -> tuple[nn.Module, hl.HyperNetwork]:
    target = make().double()
    return target, shaken(hl.HyperNetwork(target, condition=hl.Embedding(4, 3), layout=layout))


def close_leaves(actual: Any, expected: Any) -> None:
    compare.close(tree_leaves(actual), tree_leaves(expected), equal_nan=True)


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Return copies of every tensor that a module holds, anywhere, and its modes."""
    tensors = {}
    for path, part in module.named_modules(remove_duplicate=False):
        held = {**vars(part), **part._parameters, **part._buffers}
        for key, value in held.items():
            if isinstance(value, Tensor):
                tensors[f"{path}.{key}"] = (value, value.detach().clone(), value._version)
        tensors[f"{path}:training"] = part.training
    return tensors


def unchanged(module: nn.Module, before: dict[str, Any]) -> None:
    now = snapshot(module)
    assert set(now) == set(before)
    for name, value in before.items():
        if isinstance(value, tuple):
            tensor, copied, version = value
            assert now[name][0] is tensor, name
            assert now[name][2] == version, name
            assert torch.equal(now[name][1], copied), name
        else:
            assert now[name] == value, name


def gradients(output: Any, hnet: hl.HyperNetwork) -> tuple[Tensor, ...]:
    floating = [leaf for leaf in tree_leaves(output) if leaf.is_floating_point()]
    total = torch.stack([(leaf * leaf.detach().sin()).sum() for leaf in floating]).sum()
    return torch.autograd.grad(total, list(hnet.parameters()), allow_unused=True)
