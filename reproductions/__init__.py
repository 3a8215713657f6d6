"""Published experiments, run again: `python -m reproductions --data mnist10k.npz`.

Each module has a `TITLE` and a function `run(data, track) -> dict`, made by `_result.result`.
`__main__` runs them and writes the report in Markdown, with the numbers as JSON beside it.
"""
