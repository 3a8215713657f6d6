"""Makes the executed notebooks: the guide, and a notebook for each script in docs/notebooks/.

    python -m docs.notebooks            # all
    python -m docs.notebooks names      # one

A notebook is its source, executed: docs/guide.md, or a script in which `# %%` begins a cell (the
percent format of jupytext). What is printed and drawn is kept, without warnings of the machine;
`tests/docs/test_notebooks.py` holds the cells to their sources.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

DOCS = Path(__file__).parent
FOLDER = DOCS / "notebooks"
SOURCES = {"guide": DOCS / "guide.md", **{path.stem: path for path in FOLDER.glob("*.py")}}
SECONDS = 900  # for one cell
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
# What the guide says is printed: in the notebook it is.
PRINTED = re.compile(r"\A```text\n.*?\n```\n*", re.DOTALL)
LINK = re.compile(r"\]\((?=[\w/]+\.(?:md|ipynb|png|svg))")


def unexecuted(name: str) -> NotebookNode:
    """Return the cells that a source says, links as seen from the folder of notebooks."""
    source = SOURCES[name]
    read = jupytext.read(source)
    cells = []
    for cell in read.cells:
        text = cell.source
        if cell.cell_type == "markdown":
            if cells and cells[-1].cell_type == "code":
                text = PRINTED.sub("", text)
            text = LINK.sub("](../", text) if source.parent == DOCS else text
        if text.strip():
            new = getattr(nbformat.v4, f"new_{cell.cell_type}_cell")
            cells.append(new(text, id=f"cell-{len(cells)}"))
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})


def executed(name: str, folder: Path) -> NotebookNode:
    """Return a notebook with what its cells print and draw; they run in `folder`.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell fails.
    """
    book = unexecuted(name)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(
        book, timeout=SECONDS, kernel_name="python3", coalesce_streams=True, resources=where
    ).execute()
    for cell in book.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [_small(o) for o in cell.outputs if o.get("name") != "stderr"]
    book.metadata = {"kernelspec": KERNEL}
    return book


def _small(output: NotebookNode) -> NotebookNode:
    """Keep one way to show a thing, and no trace of this machine."""
    data = output.get("data", {})
    if "text/html" in data:
        data.pop("image/svg+xml", None)
    if "image/png" in data or "image/gif" in data:
        data.pop("text/plain", None)
    output.get("metadata", {}).clear()
    return output


def main(names: list[str]) -> None:
    """Execute and write notebooks."""
    for name in names or SOURCES:
        with tempfile.TemporaryDirectory() as folder:
            book = executed(name, Path(folder))
        file = FOLDER / f"{name}.ipynb"
        nbformat.write(book, file)
        print(f"{file.relative_to(DOCS.parent)}: {file.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
