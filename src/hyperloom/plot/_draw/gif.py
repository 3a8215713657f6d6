"""Moving pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

COLOURS = 64


def frame(figure: Figure, dpi: int = 70) -> np.ndarray:
    """Return a figure as an image `(height, width, 3)` of uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_gif(file: str | os.PathLike[str], images: Sequence[np.ndarray], *, ms: int = 80) -> None:
    """Write images `(height, width, 3)` of uint8 as a GIF that repeats.

    Args:
        file: Where to write.
        images: All of one size. They share the colours of the one in the middle, so that what
            does not move takes no room.
        ms: How long each is shown, in milliseconds.
    """
    from PIL import Image

    whole = [Image.fromarray(image) for image in images]
    palette = whole[len(whole) // 2].quantize(COLOURS, dither=Image.Dither.NONE)
    pictures = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in whole]
    pictures[0].save(
        Path(file), save_all=True, append_images=pictures[1:], duration=ms, loop=0, optimize=False
    )
