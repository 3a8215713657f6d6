"""Puts what a recipe measured into its page of the gallery.

    hyperloom demo NAME --out FOLDER
    python -m docs.recipes NAME FOLDER

copies the pictures to `docs/images/gallery/NAME-*`, the numbers to `docs/gallery/NAME.json`, and
writes claims and tables between the page's `<!-- numbers -->` marks. A test compares both.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from hyperloom.recipes._frame.run import shown

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "gallery"
IMAGES = ROOT / "docs" / "images" / "gallery"
START, END = "<!-- numbers -->\n", "<!-- /numbers -->\n"
LARGEST = 300_000


def section(numbers: dict[str, Any]) -> str:
    """Return claims and tables of a run as Markdown."""
    lines = ["| claim | here | measured |", "|---|---|---|"]
    for claim in numbers.get("claims", []):
        held = "holds" if claim["holds"] else "**does not hold**"
        lines.append(f"| {claim['claim']} | {held} | {claim['measured']} |")
    for title, rows in numbers.get("tables", {}).items():
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        lines += [
            "",
            f"**{title}**",
            "",
            "|".join(["| ", *columns, ""]),
            "|---" * len(columns) + "|---|",
        ]
        lines += [
            "|".join([f"| {name} ", *(shown(row.get(c, "")) for c in columns), ""])
            for name, row in rows.items()
        ]
    if same := numbers.get("same_function"):
        lines += [
            "",
            f"Outputs from equal weights differ by {same['largest_difference']:.1e} at most.",
        ]
    backend, seconds = numbers["options"]["backend"], numbers["seconds"]
    lines += [
        "",
        f"One run, {backend}, seed {numbers['options']['seed']}: {seconds:.0f} s.",
    ]
    return "\n".join(lines) + "\n"


def parts(page: Path) -> tuple[str, str, str]:
    """Return what stands before, between and after the marks of a page."""
    before, _, rest = page.read_text("utf-8").partition(START)
    between, _, after = rest.partition(END)
    return before, between, after


def publish(name: str, folder: Path) -> None:
    """Copy a run's pictures and numbers, and renew the page."""
    numbers = json.loads((folder / "numbers.json").read_text("utf-8"))
    IMAGES.mkdir(parents=True, exist_ok=True)
    for file in sorted([*folder.glob("*.png"), *folder.glob("*.gif")]):
        if file.stat().st_size > LARGEST:
            raise SystemExit(f"{file}: {file.stat().st_size} bytes, wanted {LARGEST} at most")
        shutil.copy(file, IMAGES / f"{name}-{file.name}")
    (PAGES / f"{name}.json").write_text((folder / "numbers.json").read_text("utf-8"), "utf-8")
    page = PAGES / f"{name}.md"
    before, _, after = parts(page)
    page.write_text(f"{before}{START}{section(numbers)}{END}{after}", "utf-8")


if __name__ == "__main__":
    publish(sys.argv[1], Path(sys.argv[2]))
