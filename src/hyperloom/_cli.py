"""The command line: `hyperloom demo NAME`, `hyperloom inspect FILE` and `hyperloom plot FILE`."""

import sys
from enum import StrEnum
from importlib import import_module
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from hyperloom import __version__
from hyperloom._core.arrays import itemsize
from hyperloom._core.checkpoint.base import FINGERPRINT, TREES
from hyperloom._core.checkpoint.file import FORMAT, Description, read_description
from hyperloom._core.errors import CheckpointError, did_you_mean, message
from hyperloom._core.plan.plan import Plan
from hyperloom._core.tables import human

if TYPE_CHECKING:
    import typer
    from rich.table import Table


class Backend(StrEnum):
    """What computes."""

    TORCH = "torch"
    JAX = "jax"


_NEEDS = (
    'the command line needs packages that are not installed ({}): pip install "hyperloom[demo]"'
)


def main() -> None:
    """Run the command line; what the `hyperloom` script calls."""
    try:
        app = build_app()
    except ModuleNotFoundError as error:
        _needs(error)
    app()


def _needs(error: ModuleNotFoundError) -> NoReturn:
    """Say which package is missing; raise again what is not about a package of others."""
    if not error.name or error.name.partition(".")[0] == "hyperloom":
        raise error
    _fail(_NEEDS.format(error.name))


def build_app() -> "typer.Typer":
    """Return the app with its commands.

    Raises:
        ModuleNotFoundError: typer or rich is not installed.
    """
    import rich.console  # noqa: F401  # pyright: ignore[reportUnusedImport]
    import typer

    app = typer.Typer(
        name="hyperloom",
        help="Hypernetworks: networks that generate the weights of other networks.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            print(f"hyperloom {__version__}")
            raise typer.Exit

    @app.callback()
    def options(
        version: Annotated[
            bool,
            typer.Option(
                "--version", help="Print the version.", callback=show_version, is_eager=True
            ),
        ] = False,
    ) -> None:
        pass

    _add_demo(app)
    _add_commands_of_files(app)
    return app


def _add_demo(app: "typer.Typer") -> None:
    """Add the command that runs recipes."""
    import typer

    @app.command()
    def demo(
        name: Annotated[
            str, typer.Argument(help="Of a recipe; without one, they are listed.")
        ] = "",
        out: Annotated[Path, typer.Option(help="Folder for plots, checkpoint and numbers.")] = Path(
            "hyperloom-demo"
        ),
        seed: Annotated[int, typer.Option(min=0, help="Of initial values and batches.")] = 0,
        steps: Annotated[
            int | None, typer.Option(min=1, help="Training steps; the recipe's own by default.")
        ] = None,
        backend: Annotated[Backend, typer.Option(help="What computes.")] = Backend.TORCH,
        data: Annotated[
            Path | None, typer.Option(help="A file of your own, for recipes that take one.")
        ] = None,
    ) -> None:
        """Run a recipe: a whole use of hypernetworks beside what one would do without."""
        if name:
            _demo(name, out, seed, steps, str(backend), data)
        else:
            _list_recipes()


def _add_commands_of_files(app: "typer.Typer") -> None:
    """Add the commands that look at a checkpoint."""
    import typer

    @app.command()
    def inspect(
        checkpoint: Annotated[Path, typer.Argument(help="A file that save() wrote.")],
    ) -> None:
        """Print the plan and the sizes in a checkpoint; imports neither torch nor jax."""
        _inspect(checkpoint)

    @app.command()
    def plot(
        checkpoint: Annotated[Path, typer.Argument(help="A file that save() wrote.")],
        out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path(
            "hyperloom-plots"
        ),
        tensor: Annotated[
            str, typer.Option(help="The tensor to look at; the largest by default.")
        ] = "",
    ) -> None:
        """Draw the plan, the conditions and what they generate; needs neither torch nor jax."""
        _plot(checkpoint, out, tensor)


def _list_recipes() -> None:
    """Print the recipes, a line each."""
    from rich.console import Console

    from hyperloom.recipes._frame.listed import RECIPES

    width = max(len(recipe.name) for recipe in RECIPES) + 2
    lines = [f"  {recipe.name:<{width}}{recipe.what}" for recipe in RECIPES]
    text = "\n".join(["hyperloom demo NAME runs a recipe, in about two minutes:", "", *lines])
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def _demo(
    name: str, out: Path, seed: int, steps: int | None, backend: str, data: Path | None
) -> None:
    """Run a recipe; exit with 1 if it cannot run, or has failed."""
    from rich.console import Console

    from hyperloom.recipes._frame.listed import RECIPES

    found = [recipe for recipe in RECIPES if recipe.name == name]
    if not found:
        known = did_you_mean(name, [recipe.name for recipe in RECIPES])
        way_out = f"{known} `hyperloom demo` lists them."
        _fail(message("name", repr(name), "the name of a recipe", way_out))
    recipe = found[0]
    if backend not in recipe.backends:
        wanted = f"{' or '.join(recipe.backends)}, what {name} is written for"
        _fail(message("--backend", backend, wanted))
    if data is not None and not data.is_file():
        _fail(message("--data", f"{data}, which is no file", "the path of a file"))
    try:
        from hyperloom.recipes._frame.run import Run, running

        module = import_module(recipe.module)
        import_module(f"{recipe.module.rpartition('.')[0]}.{backend}")
    except ModuleNotFoundError as error:
        _needs(error)
    run = Run(name, out, Console(), seed, steps, backend, data)
    try:
        with running(run):
            module.demo(run)
    except OSError as error:
        way_out = f"Name another folder: hyperloom demo {name} --out DIR."
        _fail(
            message("--out", f"{out} ({error.strerror})", "a folder that can be written", way_out)
        )
    if run.failed:
        sys.exit(1)


def _plot(checkpoint: Path, out: Path, tensor: str) -> None:
    """Write pictures of a checkpoint; exit with 1 if it cannot be read."""
    from rich.console import Console

    described = _described(checkpoint)
    try:
        from hyperloom.plot._draw.every import pictures
    except ModuleNotFoundError as error:
        _needs(error)
    console = Console()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with console.status("drawing ...") as status:
            for path, what in pictures(checkpoint, described.plan, out, tensor):
                status.update(f"drawing, after {path.name} ...")
                console.print(f"{path}  {what}", markup=False, highlight=False, soft_wrap=True)
    except OSError as error:
        way_out = "Name another folder: hyperloom plot FILE --out DIR."
        got = f"{out} ({error.strerror})"
        _fail(message("--out", got, "a folder that can be written", way_out))
    except (TypeError, ValueError) as error:
        _fail(str(error))


def _described(checkpoint: Path) -> Description:
    """Return what a checkpoint says of itself; exit with 1 if it cannot be read."""
    try:
        return read_description(checkpoint)
    except CheckpointError as error:
        _fail(str(error))
    except OSError as error:
        got = f"{error.strerror or error}".lower()
        _fail(message(f"checkpoint {checkpoint}", got, "a file that save() wrote"))


def _inspect(checkpoint: Path) -> None:
    """Print what a checkpoint says of itself; exit with 1 if it cannot be read."""
    from rich.console import Console

    described = _described(checkpoint)
    console = Console()
    console.print(str(described.plan), markup=False, highlight=False, soft_wrap=True)
    console.print(_sizes(checkpoint, described))


def _sizes(checkpoint: Path, described: Description) -> "Table":
    """Return the sizes as a table of two columns."""
    from rich.table import Table

    plan, size = described.plan, checkpoint.stat().st_size
    stored = sum(prod(shape) for shape in described.shapes.values())
    dtypes = ", ".join(sorted(set(described.dtypes.values())))
    compression = f"{plan.compression:.3g} x one target"
    if plan.num_ids:
        several = plan.compression / plan.num_ids
        compression += f", {several:.3g} x {plan.num_ids} targets, one for each id"
    rows = {
        "file": f"{checkpoint.name}, {human(size, 'B')}, by hyperloom {described.version}",
        "format": f"{FORMAT}, read by hyperloom {__version__}",
        "fingerprint": f"{described.digest[:16]}, of the plan and all values",
        "conditions": f"{plan.condition}, {_ids(plan)}",
        "frozen base": _base(described),
        "tensors in the file": f"{len(described.shapes)}, {stored:,} numbers, {dtypes}",
        "parameters": f"{plan.num_parameters:,}, {human(plan.parameter_bytes(), 'B')} in float32",
        "target": f"{plan.spec.name}, {plan.num_target_parameters:,} numbers",
        "generated": f"{plan.num_generated:,} numbers for each condition",
        "  for 1 condition": human(_generated_bytes(plan), "B"),
        "  for 100 conditions": human(100 * _generated_bytes(plan), "B"),
        "compression": compression,
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in rows.items():
        table.add_row(name, value.replace("[", r"\["))
    return table


def _ids(plan: Plan) -> str:
    """Say how many conditions there are."""
    return f"{plan.num_ids} ids" if plan.num_ids else "any value"


def _base(described: Description) -> str:
    """Say whether the tensors that are not learned are in the file."""
    if FINGERPRINT in described.shapes:
        return "not in the file, which knows it by its fingerprint"
    held = any(name.split(".")[0] in TREES for name in described.shapes)
    return "in the file" if held else "none"


def _generated_bytes(plan: Plan) -> int:
    """Bytes of one condition's generated tensors, in the dtypes of the target."""
    tensors = (plan.spec[entry.tensor] for entry in plan.entries)
    return sum(tensor.numel * itemsize(tensor.dtype) for tensor in tensors)


def _fail(text: str) -> NoReturn:
    """Print an error, and end."""
    print(f"hyperloom: {text}", file=sys.stderr)
    sys.exit(1)
