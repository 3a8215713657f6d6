"""The site in a real browser: headless Chromium, on a phone's and on a desk's width.

Needs zensical, playwright and a Chromium (playwright's own, or one on the path); says what is
missing otherwise. Slow: `make look` runs it.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MISSING = [name for name in ("zensical", "playwright") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
PATHS = sorted(
    path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in ROOT.glob("docs/**/*.md")
)
SIZES = {"desk": (1280, 900), "phone": (390, 844)}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the site from a copy of its sources, and serve it."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("docs", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", folder)
    paths = os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["zensical", "build", "--strict"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    handler = functools.partial(Quiet, directory=str(folder / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import Error, sync_playwright  # pyright: ignore[reportMissingImports]

    there = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        try:
            started = play.chromium.launch(executable_path=there, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield started
        started.close()


def _url(address: str, path: str) -> str:
    folder = path.removesuffix("index")
    return address + folder + ("" if folder != path else "/")


LOOK = """() => ({
    wider: document.documentElement.scrollWidth - window.innerWidth,
    cut: [...document.querySelectorAll('.language-python pre > code')]
        .filter(code => code.scrollWidth > code.clientWidth + 1)
        .map(code => code.innerText.slice(0, 80)),
    blocks: document.querySelectorAll('.language-python pre > code').length,
    empty: [...document.images].filter(image => image.complete && !image.naturalWidth).length,
    silent: [...document.images].filter(image => !image.alt).length,
})"""


@pytest.mark.parametrize(("size", "scheme"), [("desk", "light"), ("phone", "dark")])
def test_every_page_fits(browser: Any, address: str, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    refused: list[str] = []
    page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
    elsewhere: list[str] = []
    page.on("request", lambda r: None if r.url.startswith(address) else elsewhere.append(r.url))
    blocks, cut = 0, dict[str, list[str]]()
    for path in PATHS:
        page.goto(_url(address, path))
        found = page.evaluate(LOOK)
        blocks += found["blocks"]
        assert found["wider"] <= 0, path
        assert not found["empty"], path
        assert not found["silent"], path
        if size == "desk" and found["cut"]:
            cut[path] = found["cut"]
    page.close()
    assert cut == {}
    assert blocks > 100
    assert not refused
    assert [url for url in elsewhere if not url.startswith("data:")] == []


def test_both_colour_schemes_can_be_read(browser: Any, address: str) -> None:
    colours = """() => {
        const of = (name, node) => getComputedStyle(node)[name];
        return [of('color', document.querySelector('article p')),
                of('backgroundColor', document.body)];
    }"""
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(address)
        text, ground = (_luminance(page, colour) for colour in page.evaluate(colours))
        assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) > 7  # WCAG 2.2, AAA
        assert (text > ground) == (scheme == "dark")
        page.close()


def _luminance(page: Any, colour: str) -> float:
    """Return the relative luminance of a CSS colour, painted by the browser on its own ground."""
    draw = """colour => {
        const canvas = document.createElement('canvas');
        canvas.width = canvas.height = 1;
        const pen = canvas.getContext('2d');
        pen.fillStyle = getComputedStyle(document.body).backgroundColor;
        pen.fillRect(0, 0, 1, 1);
        pen.fillStyle = colour;
        pen.fillRect(0, 0, 1, 1);
        return [...pen.getImageData(0, 0, 1, 1).data];
    }"""
    parts = [value / 255 for value in page.evaluate(draw, colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("word", ["LoRA", "HMLP", "vmap"])
def test_search_finds(browser: Any, address: str, word: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    page.wait_for_load_state("networkidle")
    page.keyboard.press("Control+k")
    page.wait_for_timeout(400)
    page.keyboard.type(word)
    found = page.get_by_text(re.compile(r"\d+ results?"))
    found.first.wait_for(timeout=10_000)
    assert int(found.first.inner_text().split()[0].replace(",", "")) > 0
    page.close()
