"""What every recipe does besides its own: progress, tables, claims, files, numbers as JSON."""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hyperloom import __version__
from hyperloom.plot._draw.gif import frame, write_gif
from hyperloom.recipes._frame.measure import Side

NUMBERS = "numbers.json"
DPI = 110
_PACKAGES = ("numpy", "torch", "jax", "flax", "optax", "scikit-learn")
_COLUMNS = (
    TextColumn("{task.description:<26}"),
    BarColumn(bar_width=30),
    TextColumn("{task.fields[now]:<18}"),
    TimeElapsedColumn(),
)


@dataclass
class Run:
    """One run of a recipe: its options, and a place for all that comes out.

    Args:
        name: The recipe's.
        out: Folder for what it writes; made when the run begins.
        console: Where to print.
        seed: Of initial values, batches and whatever else is drawn.
        steps: Training steps; `None` for the recipe's own number.
        backend: `"torch"` or `"jax"`.
        data: A file of the user's own; `None` for the data that a package ships.
    """

    name: str
    out: Path
    console: Console
    seed: int = 0
    steps: int | None = None
    backend: str = "torch"
    data: Path | None = None
    numbers: dict[str, Any] = field(default_factory=dict[str, Any])
    files: dict[str, str] = field(default_factory=dict[str, str])
    failed: bool = False
    _now: str = ""

    def backend_of(self, package: str) -> Any:
        """Return the module of the chosen backend in a recipe's package, e.g. `__package__`."""
        return import_module(f"{package}.{self.backend}")

    def introduce(self, text: str) -> None:
        """Print what is going to happen; rich's markup is understood."""
        self.console.print(text + "\n", highlight=False)

    def settings(self, **values: Any) -> None:
        """Put the choices that somebody needs to do it again into the JSON."""
        self.numbers.setdefault("settings", {}).update(values)

    def train(self, title: str, steps: int) -> Iterator[int]:
        """Yield 0, 1, ... with a progress bar: `steps` times, or `--steps` times if given.

        Args:
            title: What is trained, up to 26 characters.
            steps: The recipe's own number.
        """
        return self.track(title, range(self.steps or steps))

    def track(self, title: str, items: Sequence[Any]) -> Iterator[Any]:
        """Yield items with a progress bar; `now` says beside it what goes on."""
        self._now = ""
        with Progress(*_COLUMNS, console=self.console) as progress:
            bar = progress.add_task(title, total=len(items), now="")
            for item in items:
                yield item
                progress.update(bar, advance=1, now=self._now)

    def now(self, text: str) -> None:
        """Say beside the progress bar what goes on, in up to 18 characters."""
        self._now = text

    def table(self, title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Print a table and put it into the JSON.

        Args:
            title: Above it; its key in the JSON.
            rows: For each row's name, its columns. Numbers are printed with 4 digits.
        """
        self.numbers.setdefault("tables", {})[title] = {
            name: {column: _plain(value) for column, value in row.items()}
            for name, row in rows.items()
        }
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        made = Table(title=title, title_style="bold", title_justify="left", box=box.HORIZONTALS)
        made.add_column("")
        for column in columns:
            made.add_column(column, justify="right")
        for name, row in rows.items():
            made.add_row(name, *(shown(row.get(column, "")) for column in columns))
        self.console.print(made)

    def claim(self, text: str, holds: bool, measured: str) -> None:
        """Say whether what the recipe is to show is so on this machine.

        Args:
            text: The claim, with what it is held against.
            holds: Whether the numbers bear it out.
            measured: The numbers.
        """
        held = {"claim": text, "holds": bool(holds), "measured": measured}
        self.numbers.setdefault("claims", []).append(held)
        verdict = "[green]holds[/green]" if holds else "[red]does NOT hold here[/red]"
        self.console.print(f"- {text}: {verdict}, {measured}", highlight=False)

    def beside(
        self, difference: float, sides: Mapping[str, Side], final: Mapping[str, float]
    ) -> None:
        """Print the hypernetwork beside the same function written by hand.

        Args:
            difference: The largest difference between the outputs of all from equal weights.
            sides: `"hyperloom"`, `"by hand"` and what else does the same.
            final: The final number by its name and unit: that of all, for they do the same.
        """
        rows = {
            name: {"lines of code": side.lines, "ms a step": side.ms, **final}
            for name, side in sides.items()
        }
        self.table("Beside the same by hand", rows)
        self.numbers["same_function"] = {"largest_difference": float(difference)}
        self.console.print(f"  the same function: outputs differ by {difference:.1e} at most")

    def path(self, name: str, what: str) -> Path:
        """Return the path of a file that the recipe is going to write itself."""
        self.files[name] = what
        return self.out / name

    def figure(self, name: str, figure: Figure, what: str) -> None:
        """Write a figure."""
        figure.savefig(self.path(name, what), dpi=DPI)

    def gif(self, name: str, frames: Sequence[Any], what: str, *, ms: int = 80) -> None:
        """Write a moving picture.

        Args:
            name: Of the file, ending in `.gif`.
            frames: Figures, or images `(height, width, 3)` of uint8.
            what: What is to be seen, in a few words.
            ms: How long each is shown, in milliseconds.
        """
        images = [frame(f) if isinstance(f, Figure) else f for f in frames]
        write_gif(self.path(name, what), images, ms=ms)

    def checkpoint(self, hl: Any, hnet: Any, name: str = "hypernetwork.safetensors") -> None:
        """Save a hypernetwork with its backend's `save`, the target's own tensors with it."""
        hl.save(hnet, self.path(name, f"the checkpoint: hyperloom inspect {name}"), with_base=True)


@contextmanager
def running(run: Run) -> Generator[Run]:
    """Make the folder, let the recipe run, then write the numbers and say what was written.

    Raises:
        OSError: The folder or a file in it cannot be written.
    """
    start = time.perf_counter()
    run.out.mkdir(parents=True, exist_ok=True)
    yield run
    seconds = time.perf_counter() - start
    numbers = {
        "recipe": run.name,
        "options": {"seed": run.seed, "steps": run.steps, "backend": run.backend},
        **run.numbers,
        "files": run.files,
        "versions": versions(),
        "seconds": round(seconds, 1),
    }
    run.path(NUMBERS, "all numbers, settings and versions").write_text(dumps(numbers), "utf-8")
    width = max(map(len, run.files)) + 2
    lines = [f"  {name:<{width}}{what}" for name, what in run.files.items()]
    text = "\n".join([f"\nIt took {seconds:.0f} seconds. Written to {run.out}:", *lines])
    run.console.print(text, highlight=False, soft_wrap=True, markup=False)


def versions() -> dict[str, str]:
    """Return the versions of what computes, as far as it is installed."""
    found = {"hyperloom": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def shown(value: Any) -> str:
    """Return a value as a table shows it: integers whole, other numbers with 4 digits."""
    value = _plain(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """Return a number of NumPy, torch or JAX as Python's own."""
    value = value.item() if hasattr(value, "item") else value
    return float(f"{value:.6g}") if isinstance(value, float) else value


def dumps(content: Any) -> str:
    """Return JSON to be read by people too: a list of numbers is one line."""
    text = json.dumps(content, indent=1)
    return re.sub(r"\[[^][{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"
