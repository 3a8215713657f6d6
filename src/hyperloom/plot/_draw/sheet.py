"""The figure that everything is drawn on."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

DPI = 80


class Sheet(Figure):
    """A figure of no window that a notebook shows.

    Notebooks know how to show matplotlib's figures only once pyplot has been imported, which
    belongs to windows; they ask every object for `_repr_png_`.
    """

    def _repr_png_(self) -> bytes:
        written = io.BytesIO()
        self.savefig(written, format="png", dpi=DPI)
        return written.getvalue()
