"""Targets of many kinds as a good engineer writes them for a batch of conditions, by hand.

Functions take the target, its tensors `(B, *shape)` by name, and inputs `(B, n, ...)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = Mapping[str, Tensor]


def linear(t: Tensors, name: str, x: Tensor, bias: bool = True) -> Tensor:
    """Return a linear layer of each condition on `(B, rows, I)`."""
    w = t[f"{name}weight"].mT
    return torch.baddbmm(t[f"{name}bias"].unsqueeze(1), x, w) if bias else torch.bmm(x, w)


# ---- a field of sines ----------------------------------------------------------------------------


def field(target: Any, t: Tensors, x: Tensor) -> Tensor:
    for name in ("0.", "2."):
        x = torch.sin(3.0 * linear(t, name, x))
    return linear(t, "4.", x)


def field_products(target: Any, t: Tensors, x: Tensor) -> Tensor:
    for name in ("0.", "2.", "4."):
        x = torch.bmm(x, t[f"{name}weight"].mT)
    return x


# ---- convolutions --------------------------------------------------------------------------------


def _grouped(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve `(n, B * C, H, W)`, a group for each condition."""
    flat = None if bias is None else bias.flatten()
    return F.conv2d(x, weight.flatten(0, 1), flat, padding=1, groups=len(weight))


def conv(target: Any, t: Tensors, x: Tensor) -> Tensor:
    y = _grouped(x.transpose(0, 1).flatten(1, 2), t["weight"], t["bias"])
    return y.unflatten(1, (len(x), -1)).transpose(0, 1)


def bare_conv(target: Any, t: Tensors, x: Tensor) -> Tensor:
    return _grouped(x.transpose(0, 1).flatten(1, 2), t["weight"], None)


def cnn(target: Any, t: Tensors, x: Tensor) -> Tensor:
    num, n = x.shape[:2]
    h = x.transpose(0, 1).flatten(1, 2)
    for name in ("0", "3"):
        h = F.max_pool2d(_grouped(h, t[f"{name}.weight"], t[f"{name}.bias"]).relu(), 2)
    rows = h.view(n, num, -1).transpose(0, 1)
    return linear(t, "7.", rows)


def cnn_layers(target: Any, t: Tensors, x: Tensor) -> Tensor:
    num, n = x.shape[:2]
    h = F.max_pool2d(_grouped(x.transpose(0, 1).flatten(1, 2), t["0.weight"], None), 2)
    h = F.max_pool2d(_grouped(h, t["3.weight"], None), 2)
    return torch.bmm(h.view(n, num, -1).transpose(0, 1), t["7.weight"].mT)


# ---- an LSTM -------------------------------------------------------------------------------------


def lstm(target: Any, t: Tensors, x: Tensor) -> Tensor:
    num, n, steps, _ = x.shape
    from_x = torch.baddbmm(
        (t["module.bias_ih_l0"] + t["module.bias_hh_l0"]).unsqueeze(1),
        x.flatten(1, 2),
        t["module.weight_ih_l0"].mT,
    ).view(num, n, steps, -1)
    w = t["module.weight_hh_l0"].mT
    h = c = x.new_zeros(num, n, w.shape[1])
    outputs = []
    for gates in from_x.unbind(2):
        i, f, g, o = torch.baddbmm(gates, h, w).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs, 2)


def lstm_products(target: Any, t: Tensors, x: Tensor) -> Tensor:
    num, n, steps, _ = x.shape
    from_x = torch.bmm(x.flatten(1, 2), t["module.weight_ih_l0"].mT).view(num, n, steps, -1)
    w = t["module.weight_hh_l0"].mT
    h = x.new_zeros(num, n, w.shape[1])
    for gates in from_x.unbind(2):
        h = torch.baddbmm(gates, h, w)[..., : w.shape[1]]
    return h


# ---- a transformer's layer -----------------------------------------------------------------------


def _norm(t: Tensors, name: str, x: Tensor) -> Tensor:
    y = F.layer_norm(x, x.shape[-1:])
    return y * t[f"{name}.weight"].unsqueeze(1) + t[f"{name}.bias"].unsqueeze(1)


def encoder(target: Any, t: Tensors, x: Tensor) -> Tensor:
    shape, heads = x.shape, target.self_attn.num_heads
    num, n, steps, size = shape
    h = x.flatten(1, 2)
    made = torch.baddbmm(
        t["self_attn.in_proj_bias"].unsqueeze(1), h, t["self_attn.in_proj_weight"].mT
    )
    q, k, v = made.view(num * n, steps, 3, heads, -1).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(num, n * steps, size)
    h = _norm(t, "norm1", h + linear(t, "self_attn.out_proj.", mixed))
    wide = linear(t, "linear1.", h).relu()
    return _norm(t, "norm2", h + linear(t, "linear2.", wide)).view(shape)


def encoder_products(target: Any, t: Tensors, x: Tensor) -> Tensor:
    size = x.shape[-1]
    made = torch.bmm(x.flatten(1, 2), t["self_attn.in_proj_weight"].mT)
    h = torch.bmm(made[..., :size], t["self_attn.out_proj.weight"].mT)
    h = torch.bmm(torch.bmm(h, t["linear1.weight"].mT), t["linear2.weight"].mT)
    return h
