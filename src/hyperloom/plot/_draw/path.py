"""A tensor on the way from one condition to another, as a moving picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from hyperloom._core.errors import a_path, message, positive_int
from hyperloom.plot._draw.figures import known, matrices
from hyperloom.plot._draw.saved import saved

SIDE, COLOURS = 240, 64


def path(
    hnet: Any,
    name: str,
    start: Any,
    stop: Any,
    file: str | os.PathLike[str],
    *,
    frames: int = 16,
) -> Path:
    """Write a GIF of one generated tensor on a line between two conditions, there and back.

    What differs between the conditions is interpolated (their vectors, and rows of tables for two
    ids), and the tensor generated at each step: a smooth way says that the hypernetwork knows
    networks between those that it was trained on.

    Args:
        hnet: A `HyperNetwork`, or the path of a checkpoint. It is executed in NumPy.
        name: Name of a generated tensor.
        start: Raw value of one condition.
        stop: Raw value of another.
        file: Where to write; the name ends in `.gif`.
        frames: Steps on the way. Default 16.

    Returns:
        The path of the file.

    Raises:
        ValueError: No such tensor, or a file of another kind.
        TypeError: A condition or trunk module of the user's own, which NumPy cannot compute.
    """
    from PIL import Image

    file = Path(a_path("file", file))
    if file.suffix != ".gif":
        raise ValueError(message("file", repr(str(file)), "a name that ends in .gif"))
    positive_int("frames", frames, least=2)
    found = saved(hnet)
    known(found.plan, name)
    values = matrices(found.between(start, stop, frames).generate(range(frames))[name])
    top = float(np.quantile(np.abs(values), 0.995)) or 1.0
    down, across = values.shape[1:]
    times = max(1, SIDE // max(down, across))
    pictures = []
    for value in [*values, *values[-2:0:-1]]:
        image = Image.fromarray(_colours(value / top))
        image = image.resize((across * times, down * times), Image.Resampling.NEAREST)
        pictures.append(image.quantize(COLOURS, dither=Image.Dither.NONE))
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=80, loop=0)
    return file


def _colours(values: np.ndarray) -> np.ndarray:
    """Return numbers from −1 to 1 as colours `(down, across, 3)`: blue, white, red."""
    from matplotlib import colormaps

    rgba = colormaps["RdBu_r"](np.clip((values + 1) / 2, 0, 1))
    return (255 * rgba[..., :3]).astype(np.uint8)
