"""docs/zoo.md shows the tables that the tests run."""

from __future__ import annotations

import os

from tests.zoo.architectures import ARCHITECTURES
from tests.zoo.classes import LEFT_OUT
from tests.zoo.layers import LAYERS
from tests.zoo.page import PAGE, draw
from tests.zoo.report import REPORT


def test_the_page_is_current() -> None:
    drawn = draw()
    if os.environ.get("HYPERLOOM_REGENERATE"):
        PAGE.write_text(drawn, "utf-8")
    assert PAGE.read_text("utf-8") == drawn, (
        "docs/zoo.md is not what the tables say: run "
        "`HYPERLOOM_REGENERATE=1 python -m pytest tests/zoo/test_page.py`"
    )


def test_no_exclusion_without_a_reason() -> None:
    text = PAGE.read_text("utf-8")
    for name, why in LEFT_OUT.items():
        assert len(why) > 10
        assert f"| `{name}` | {why} |" in text
    rows = [row for rows in LAYERS.values() for row in rows]
    for why in [row.single for row in rows] + [e.single + e.eval_only for e in ARCHITECTURES]:
        assert why in text


def test_the_committed_report_has_every_entry_and_no_failure() -> None:
    text = REPORT.read_text("utf-8")
    missing = [e.model for e in ARCHITECTURES if f"| {e.model} |" not in text]
    assert not missing, f"not in docs/reports/zoo.md: {missing}; run `make zoo`"
    assert "FAIL" not in text
