"""Functions for which one graph does not do: torch's own `vmap` fixes the number of conditions.

Those that docs/howto/compile.md names. When torch no longer does, a row here fails: strike it
there.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.func import vmap

pytestmark = pytest.mark.filterwarnings("ignore")  # what torch.compile imports and does inside

Shape = tuple[int, ...]
IMAGES = (2, 4, 6, 6)
FIXED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Shape, Shape]] = {
    "convolution": (F.conv1d, (2, 3, 8), (4, 3, 3)),
    "instance_norm": (lambda x, w: F.instance_norm(x * w), IMAGES, IMAGES),
    "pad by reflection": (lambda x, w: F.pad(x * w, (1, 1, 1, 1), "reflect"), IMAGES, IMAGES),
    "pad by replication": (lambda x, w: F.pad(x * w, (1, 1, 1, 1), "replicate"), IMAGES, IMAGES),
    "pixel_shuffle": (lambda x, w: F.pixel_shuffle(x * w, 2), IMAGES, IMAGES),
    "grid_sample": (
        lambda x, w: F.grid_sample(x, w, align_corners=False),
        IMAGES,
        (2, 6, 6, 2),
    ),
    "local_response_norm": (lambda x, w: F.local_response_norm(x * w, 2), IMAGES, IMAGES),
    "lp_pool2d": (lambda x, w: F.lp_pool2d(x * w, 2, 2), IMAGES, IMAGES),
    "cross_entropy": (
        lambda x, w: F.cross_entropy(x, w.argmax(-1)),
        (5, 4),
        (5, 4),
    ),
    "hstack": (lambda x, w: torch.hstack([x, w]), (5, 4), (5, 4)),
    "solve": (torch.linalg.solve, (4, 4), (4, 5)),
    "cross": (torch.linalg.cross, (5, 3), (5, 3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
def test_plain_vmap_compiles_once_for_each_number(name: str) -> None:
    function, *shapes = FIXED[name]
    counter = CompileCounter()
    torch._dynamo.reset()  # the rows share the code of `call`

    def call(x: Tensor, w: Tensor) -> Tensor:
        return vmap(function)(x, w)

    compiled = torch.compile(call, backend=counter, fullgraph=True, dynamic=True)
    for num in (7, 8, 9):
        compiled(*(torch.randn(num, *shape) for shape in shapes))
    assert counter.frame_count >= 2
