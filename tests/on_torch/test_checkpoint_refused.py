"""Checkpoints that cannot be used: refused by name, with everything left as it was."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file
from torch import nn

import hyperloom.torch as hl
from hyperloom._core.checkpoint.file import digest, read_description, signed
from hyperloom._core.checkpoint.json import to_json
from tests.on_torch.builders import make_with_trunk, mlp, other_seed, same_outputs
from tests.on_torch.snapshots import refused

COPY = "Copy it again from where it was saved."


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """Return a checkpoint and its bytes."""
    path = tmp_path_factory.mktemp("saved") / "hnet"
    hl.save(make_with_trunk(layout=hl.Chunked(7, embedding=3)), path)
    return path, path.read_bytes()


def refused_file(path: Path, text: str, error: type[Exception] = hl.CheckpointError) -> None:
    """Assert that both ways of loading refuse a file, and that both leave all as it was."""
    target = other_seed()
    hnet = make_with_trunk(5, target, layout=hl.Chunked(7, embedding=3))
    refused(lambda: hl.load(path, target), error, text, target)
    refused(lambda: hnet.load(path), error, text, target, hnet)


def header_length(raw: bytes) -> int:
    return int.from_bytes(raw[:8], "little")


def with_description(raw: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return the file with its description changed, and a header that is whole again."""
    length = header_length(raw)
    header = json.loads(raw[8 : 8 + length])
    description = json.loads(header["__metadata__"]["hyperloom"])
    change(description)
    header["__metadata__"]["hyperloom"] = json.dumps(description)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + raw[8 + length :]


@pytest.mark.parametrize("where", ["nothing", "length", "header", "header-end", "tensors", "last"])
def test_a_cut_file(where: str, saved: tuple[Path, bytes], tmp_path: Path) -> None:
    _, raw = saved
    length = header_length(raw)
    cuts = {
        "nothing": 0,
        "length": 5,
        "header": 8 + length // 2,
        "header-end": 8 + length - 1,
        "tensors": 8 + length + 40,
        "last": len(raw) - 1,
    }
    size = cuts[where]
    path = tmp_path / "cut"
    path.write_bytes(raw[:size])
    if size < 8 + length:
        text = f"checkpoint {path}: got a file of {size} bytes, cut in its header; wanted a whole "
    else:
        text = (
            f"checkpoint {path}: got a file of {size} bytes, cut; wanted {len(raw)} bytes. {COPY}"
        )
    refused_file(path, text)


def test_a_file_with_something_behind(saved: tuple[Path, bytes], tmp_path: Path) -> None:
    path, raw = tmp_path / "long", saved[1] + b"\0"
    path.write_bytes(raw)
    text = (
        f"checkpoint {path}: got a file of {len(raw)} bytes, altered; wanted {len(raw) - 1} bytes"
    )
    refused_file(path, text)


def test_altered_numbers(saved: tuple[Path, bytes], tmp_path: Path) -> None:
    _, raw = saved
    text = (
        "got altered numbers or an altered plan (the checksum differs); wanted the file as save()"
    )
    for offset in (8 + header_length(raw), len(raw) - 2):
        altered = bytearray(raw)
        altered[offset] ^= 1  # one bit
        path = tmp_path / "altered"
        path.write_bytes(altered)
        refused_file(path, f"checkpoint {path}: {text}")


def _set(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(description: dict[str, Any]) -> None:
        *path, last = name.split(".")
        for step in path:
            description = description[int(step)] if step.isdigit() else description[step]  # type: ignore[index]
        description[last] = value

    return change


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("plan.condition.std", 2.0, "altered numbers or an altered plan (the checksum differs)"),
        ("plan.trunk.activation", "gelu", "altered numbers or an altered plan (the checksum"),
        ("plan.heads.0.signs", False, "altered numbers or an altered plan (the checksum differs)"),
        ("plan.entries.0.pieces.0.start", 1, "altered numbers or an altered plan (the checksum"),
        ("digest", "0" * 64, "altered numbers or an altered plan (the checksum differs)"),
        (
            "plan.spec.tensors.0.role",
            "wait",
            "TensorSpec.role='wait'; wanted a value of type Role.",
        ),
        ("plan.condition.is", "Elsewhere", "a 'Elsewhere' object; wanted objects known here."),
        (
            "plan.is",
            "Full",
            "Full.spec, a field that this version does not know; wanted the fields",
        ),
        ("plan", {"is": "Full"}, "an altered description; wanted the file as save() wrote it."),
        ("plan", None, "an altered description; wanted the file as save() wrote it."),
        ("plan.extra", 1, "Plan.extra, a field that this version does not know; wanted the fields"),
        (
            "format",
            2,
            "format 2, written by hyperloom 0.1.0.dev0; wanted format 1. Install a newer",
        ),
    ],
)
def test_an_altered_description(
    name: str, value: Any, text: str, saved: tuple[Path, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "altered"
    path.write_bytes(with_description(saved[1], _set(name, value)))
    refused_file(path, f"checkpoint {path}: got {text}")


@pytest.mark.parametrize("name", ["format", "plan", "digest", "version"])
def test_a_description_with_a_part_missing(
    name: str, saved: tuple[Path, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "altered"
    path.write_bytes(with_description(saved[1], lambda d: d.pop(name)))
    refused_file(path, f"checkpoint {path}: got an altered description; wanted the file as save()")


def test_the_way_the_tests_alter_files_alters_nothing_else(
    saved: tuple[Path, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "same"
    path.write_bytes(with_description(saved[1], lambda d: None))
    same_outputs(hl.load(saved[0], other_seed()), hl.load(path, other_seed()), [0, 1, 2])


def test_any_flipped_bit_is_refused_or_harmless(saved: tuple[Path, bytes], tmp_path: Path) -> None:
    path, raw = saved
    good = hl.load(path, other_seed())
    expected = {name: value.clone() for name, value in good.state_dict().items()}
    draws = random.Random(0)
    altered_file = tmp_path / "altered"
    num_refused = 0
    for _ in range(300):
        # Half of them in the header, which is the smaller part for real networks.
        end = 8 + header_length(raw) if draws.random() < 0.5 else len(raw)
        altered = bytearray(raw)
        altered[draws.randrange(end)] ^= 1 << draws.randrange(8)
        altered_file.write_bytes(altered)
        target = other_seed()
        try:
            again = hl.load(altered_file, target)
        except hl.CheckpointError:
            num_refused += 1
        else:  # the version string, or white space
            assert again.plan == good.plan
            for name, value in again.state_dict().items():
                assert torch.equal(value, expected[name])
    assert num_refused > 270


@pytest.mark.parametrize(
    "header",
    [
        b"[1, 2]",
        b"null",
        b"not json",
        b"\xff\xfe",
        b'{"a": 3}',
        b'{"a": {"data_offsets": "ab"}}',
        b'{"a": {"data_offsets": [0, "1"]}}',
        b'{"a": {"data_offsets": [0]}}',
        b'{"__metadata__": 3}',
        b'{"__metadata__": {"hyperloom": 3}}',
        b'{"__metadata__": {"hyperloom": "[]"}}',
        b'{"__metadata__": {"hyperloom": "{"}}',
    ],
)
def test_odd_headers(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    refused_file(path, f"checkpoint {path}: got ")


def signed_again(raw: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return the file with its description changed, and a digest that says that all is well."""
    tensors = load(raw)
    items = [(n, "F32", tuple(t.shape), t.numpy().tobytes()) for n, t in tensors.items()]

    def changed(description: dict[str, Any]) -> None:
        change(description)
        description["digest"] = digest(signed(description), items)

    return with_description(raw, changed)


def with_value(raw: bytes, name: str, where: slice, value: float) -> bytes:
    """Return the file with other numbers in a tensor, and a digest that says that all is well."""
    tensors = load(raw)
    tensors[name][where] = value
    header = json.loads(raw[8 : 8 + header_length(raw)])
    return signed_again(save(tensors, header["__metadata__"]), lambda _: None)


def _places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything in JSON data."""
    yield path
    if isinstance(data, (dict, list)):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _places(value, (*path, key))


def test_wrong_values_under_a_right_digest(saved: tuple[Path, bytes], tmp_path: Path) -> None:
    raw, path = saved[1], tmp_path / "wrong"
    length = header_length(raw)
    description = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["hyperloom"])
    draws, texts = random.Random(0), list[str]()
    for where in _places(description["plan"], ("plan",)):
        *way, last = where
        old: Any = description
        for step in where:
            old = old[step]
        # Of a type that no field has; then of any other than that which is there.
        for wrong in ({"a": {}}, draws.choice([None, -7, 10**9, [[]], "text", 0.5, True])):

            def change(d: Any, way: Any = way, last: Any = last, wrong: Any = wrong) -> None:
                for step in way:
                    d = d[step]
                d[last] = wrong

            if type(wrong) is type(old):
                continue
            path.write_bytes(signed_again(raw, change))
            try:
                hl.load(path, other_seed())
            except hl.CheckpointError as error:
                texts.append(str(error))
    assert len(texts) > 300
    assert all(text.startswith(f"checkpoint {path}: got ") for text in texts)


def test_pieces_that_lie_outside(saved: tuple[Path, bytes], tmp_path: Path) -> None:
    path = tmp_path / "outside"
    for name, value, text in (
        ("plan.entries.0.pieces.0.head", 7, "got a plan with Piece(head=7"),
        ("plan.entries.0.pieces.0.start", 10**6, "got a plan with Piece(head=0, start=1000000"),
        ("plan.entries.0.pieces.0.grid", [-1, 1], "got a plan with Piece(head=0"),
        ("plan.entries.0.pieces", [], "got a plan with 0 pieces for '0.weight'; wanted 1, as"),
        ("plan.entries.0.bank", 2, "got a plan with bank 2 for '0.weight'; wanted one of 0 banks"),
        ("plan.entries.0.tensor", "nothing", "got an altered description; wanted the file as"),
    ):
        path.write_bytes(signed_again(saved[1], _set(name, value)))
        refused_file(path, f"checkpoint {path}: {text}")


@pytest.mark.parametrize("deep", ["[", '{"a":'])
def test_deeply_nested_json(deep: str, saved: tuple[Path, bytes], tmp_path: Path) -> None:
    path, depth = tmp_path / "deep", 200_000
    header = (deep * depth).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    refused_file(path, f"checkpoint {path}: got a header that is not safetensors; wanted a whole")
    header = json.dumps({"__metadata__": {"hyperloom": deep * depth}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    refused_file(path, f"checkpoint {path}: got an altered description; wanted the file as save()")
    # Not too deep for Python's reader of JSON, but for what walks over it.
    nested: Any = 1
    for _ in range(900):
        nested = [nested]
    path.write_bytes(with_description(saved[1], lambda d: d.update(plan=nested)))
    refused_file(path, f"checkpoint {path}: got an altered description; wanted the file as save()")


def test_any_flipped_bit_of_the_statistics_is_refused(tmp_path: Path) -> None:
    target = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    statistics = hl.PerConditionStatistics(also="1.*")
    hnet = hl.HyperNetwork(target, condition=hl.Embedding(3, 5), statistics=statistics)
    path, altered = tmp_path / "statistics", tmp_path / "altered"
    hl.save(hnet, path)
    raw = path.read_bytes()
    start = raw.index(b"statistics\\") + len(b"statistics")
    stop = raw.index(b"digest", start)
    assert stop - start > 40
    for offset in range(start, stop):
        for bit in range(8):
            changed = bytearray(raw)
            changed[offset] ^= 1 << bit
            altered.write_bytes(changed)
            try:
                again = hl.load(altered, target)
            except hl.CheckpointError:
                continue
            assert again.statistics == hnet.statistics  # white space


def test_a_newer_format(saved: tuple[Path, bytes], tmp_path: Path) -> None:
    def newer(description: dict[str, Any]) -> None:
        description.update(format=2, version="7.0", plan={"something": "else"})

    path = tmp_path / "newer"
    path.write_bytes(with_description(saved[1], newer))
    text = (
        f"checkpoint {path}: got format 2, written by hyperloom 7.0; wanted format 1. Install a "
        "newer hyperloom."
    )
    refused_file(path, text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(
    value: float, saved: tuple[Path, bytes], tmp_path: Path
) -> None:
    hnet = make_with_trunk(layout=hl.Chunked(7, embedding=3))
    with torch.no_grad():
        hnet.heads["chunked"].bias[2:4] = value  # type: ignore[index, union-attr]
    path = tmp_path / "diverged"
    with pytest.raises(ValueError, match=r"hnet: got 2 NaN or infinite values in 'heads.chunked"):
        hl.save(hnet, path)
    assert not path.exists()
    path.write_bytes(
        with_value(saved[1], "heads.chunked.bias", slice(2, 4), value)
    )  # as older versions did
    text = (
        f"checkpoint {path}: got 2 NaN or infinite values in 'heads.chunked.bias'; wanted finite "
        "values. The hypernetwork had diverged when it was saved."
    )
    refused_file(path, text)


def test_nan_in_what_is_the_targets_own(tmp_path: Path) -> None:
    target = mlp()
    with torch.no_grad():
        target[4].bias[0] = float("nan")  # type: ignore[index, union-attr]
    hnet = make_with_trunk(target=target, layout={"0.*": hl.Full()})
    path = tmp_path / "nan"
    with pytest.raises(ValueError, match=r"hnet: got 1 NaN or infinite values in 'kept.4.bias'"):
        hl.save(hnet, path, with_base=True)
    with torch.no_grad():
        target[4].bias[0] = 0.0  # type: ignore[index, union-attr]
    hl.save(hnet, path, with_base=True)
    path.write_bytes(with_value(path.read_bytes(), "kept.4.bias", slice(1), float("nan")))
    fresh = other_seed()
    text = f"checkpoint {path}: got 1 NaN or infinite values in 'kept.4.bias'; wanted finite values"
    refused(lambda: hl.load(path, fresh), hl.CheckpointError, text, fresh)


def test_another_target(saved: tuple[Path, bytes]) -> None:
    path, _ = saved
    others = {
        "'4.weight' has shape (2, 4), not (5, 4); '4.bias' has shape (2,), not (5,); wanted": (
            nn.Sequential(*mlp()[:4], nn.Linear(4, 5))  # type: ignore[index]
        ),
        "'4.weight' is not expected; '4.bias' is not expected; wanted the target's own": mlp()[:4],  # type: ignore[index]
        "'0.weight' has dtype float32, not float64; '0.bias' has": mlp().double(),
        "'0.0.weight' is missing; '0.0.bias' is missing; '1.weight' is missing and 6 more": (
            nn.Sequential(nn.Sequential(nn.Linear(3, 4)), nn.Linear(4, 4, bias=False))
        ),
    }
    for found, target in others.items():
        text = f"checkpoint {path}: got the parameters of another target: {found}"
        refused(lambda: hl.load(path, target), hl.CheckpointError, text, target)  # noqa: B023
        hnet = make_with_trunk(target=target, layout=hl.Chunked(7, embedding=3))
        refused(lambda: hnet.load(path), hl.CheckpointError, text, target, hnet)  # noqa: B023


def test_a_target_in_the_dtype_that_its_hypernetwork_was_converted_to(tmp_path: Path) -> None:
    hnet, path = make_with_trunk().double(), tmp_path / "double"
    hl.save(hnet, path)
    assert hl.load(path, mlp()).generate(0)["0.weight"].dtype == torch.float64
    text = (
        "Build the target in the dtypes that it had when the hypernetwork was made: load() gives "
        "it those in which the file was saved."
    )
    with pytest.raises(hl.CheckpointError, match=rf"{re.escape(text)}$"):
        hl.load(path, mlp().double())


def test_a_target_that_is_tied_otherwise(saved: tuple[Path, bytes]) -> None:
    target = mlp()
    target[2].weight.data = target[2].weight.data.clone()  # type: ignore[union-attr]
    target[2].bias = target[0].bias  # type: ignore[union-attr]
    text = (
        f"checkpoint {saved[0]}: got the parameters of another target: '2.bias' is not expected; "
    )
    refused(lambda: hl.load(saved[0], target), hl.CheckpointError, text, target)


@pytest.mark.parametrize(
    "choices",
    [
        {"layout": hl.Chunked(8, embedding=3)},
        {"layout": hl.Chunked(7, embedding=4)},
        {"layout": hl.Chunked(7, embedding=3, signs=False)},
        {"layout": hl.Chunked(7, embedding=3, per_condition=True)},
        {"layout": hl.Full()},
        {"layout": {"0.*": hl.Chunked(7, embedding=3)}},
        {"form": hl.Delta()},
        {"condition": hl.Embedding(4, 5)},
        {"condition": hl.Embedding(3, 6)},
        {"trunk": hl.MLP(6, activation="gelu")},
        {"trunk": None},
    ],
    ids=lambda c: str(c)[:60],
)
def test_another_plan(choices: dict[str, Any], saved: tuple[Path, bytes]) -> None:
    choices = {"layout": hl.Chunked(7, embedding=3), **choices}
    hnet = make_with_trunk(3, **choices)
    text = (
        f"checkpoint {saved[0]}: got another plan; wanted the plan of this hypernetwork. Use "
        "hyperloom.torch.load(path, target), which builds the plan in the file."
    )
    if choices.get("layout") == hl.Chunked(7, embedding=3, per_condition=True):
        text = f"checkpoint {saved[0]}: got "  # told by the shapes
    refused(lambda: hnet.load(saved[0]), hl.CheckpointError, text, hnet)


def test_tensors_that_do_not_fit_the_plan(saved: tuple[Path, bytes], tmp_path: Path) -> None:
    path, _ = saved
    described, tensors = read_description(path), load_file(path)
    changes: dict[str, Any] = {
        "heads.chunked.bias": tensors["heads.chunked.bias"][:-1].clone(),
        "extra": torch.zeros(2),
        "condition.table": None,
    }
    for name, value in changes.items():
        changed = {**tensors, name: value} if value is not None else dict(tensors)
        if value is None:
            del changed[name]
        items = [(n, "F32", tuple(t.shape), t.numpy().tobytes()) for n, t in changed.items()]
        content = {
            "format": 1,
            "version": described.version,
            "plan": to_json(described.plan),
            "digest": digest(described.signed, items),
        }
        other = tmp_path / name
        save_file(changed, other, metadata={"hyperloom": json.dumps(content)})
        text = f"checkpoint {other}: got tensors that differ in name or shape: {name}; wanted those"
        refused_file(other, text)


def test_plain_weights(tmp_path: Path) -> None:
    for metadata in (None, {"format": "pt"}):
        path = tmp_path / "plain"
        save_file(mlp().state_dict(), path, metadata=metadata)
        text = (
            f"checkpoint {path}: got no description of a hypernetwork; wanted one written by "
            "save(). A file of plain weights is loaded with safetensors itself."
        )
        refused_file(path, text)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    torch.save(mlp().state_dict(), tmp_path / "torch.pt")
    (tmp_path / "text").write_text("a" * 1000)
    (tmp_path / "zeros").write_bytes(b"\0" * 64)
    for name in ("torch.pt", "text", "zeros"):
        refused_file(tmp_path / name, f"checkpoint {tmp_path / name}: got ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "nothing"
    refused_file(path, f"[Errno 2] No such file or directory: '{path}'", FileNotFoundError)


def test_a_file_that_cannot_be_read_into_is_left_alone(saved: tuple[Path, bytes]) -> None:
    path, raw = saved
    hnet = make_with_trunk(3, condition=hl.Embedding(4, 5))
    refused(lambda: hnet.load(path), hl.CheckpointError, f"checkpoint {path}", hnet)
    assert path.read_bytes() == raw


def test_a_target_of_another_kind(saved: tuple[Path, bytes]) -> None:
    text = "target: got the class Linear; wanted a torch.nn.Module. Call the class to make one."
    refused(lambda: hl.load(saved[0], nn.Linear), TypeError, text)  # type: ignore[arg-type]


def test_a_plan_of_another_run_of_the_same_choices_fits(saved: tuple[Path, bytes]) -> None:
    # Scales are measured on the template: they differ between runs and come from the file.
    hnet = make_with_trunk(11, other_seed(), layout=hl.Chunked(7, embedding=3))
    described = read_description(saved[0])
    assert hnet.plan != described.plan
    assert replace(hnet.plan, spec=described.plan.spec, entries=described.plan.entries).heads != (
        described.plan.heads
    )
    hnet.load(saved[0])
    same_outputs(hnet, hl.load(saved[0], other_seed()), [0, 1, 2])
