"""The pictures of the design page show the code. `HYPERLOOM_REGENERATE=1` draws them again."""

from __future__ import annotations

import os
from xml.etree import ElementTree

from docs import house


def test_the_pictures_are_those_of_the_code() -> None:
    if os.environ.get("HYPERLOOM_REGENERATE"):
        house.main()
    rooms, call = ((house.IMAGES / f"{name}.svg").read_text("utf-8") for name in ("house", "call"))
    assert house.arcs(rooms) == house.arcs(house.draw())
    assert house.files(call) == [file for _, file, _ in house.stations()]
    for picture in (rooms, call):
        ElementTree.fromstring(picture)


def test_no_arrow_goes_up() -> None:
    order = {name: i for i, name in enumerate(house.BACKEND)}
    for start, stop in house.arcs(house.draw()):
        assert order[start.partition(".")[2]] < order[stop.partition(".")[2]]
