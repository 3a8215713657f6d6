"""What is common to the arrays of all backends: how they are called, and their dtypes by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperloom._core.errors import a_mapping, a_string, message, shown

# Name of a dtype -> as safetensors writes it.
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
}


def itemsize(dtype: str) -> int:
    """Bytes of one number: the first digits of a floating dtype's name are its bits."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 4


@dataclass(frozen=True)
class ArrayKind:
    """What the arrays of a backend are.

    Attributes:
        types: Their classes.
        word: What one is called: `"a tensor"`, `"an array"`.
    """

    types: tuple[type, ...]
    word: str

    @property
    def plural(self) -> str:
        """What several are called."""
        return f"{self.word.split()[-1]}s"

    def check(self, argument: str, value: object, wanted: str = "") -> None:
        """Raise `TypeError` unless `value` is such an array."""
        if not isinstance(value, self.types):
            raise TypeError(message(argument, shown(value), wanted or self.word))

    def check_all(self, argument: str, values: object) -> Mapping[str, Any]:
        """Return `values` if they are a dict from names to arrays; raise `TypeError` otherwise."""
        wanted = f"a dict from names to {self.plural}"
        for name, value in a_mapping(argument, values, wanted).items():
            a_string(argument, name, wanted)
            self.check(f"{argument}[{name!r}]", value)
        return values  # type: ignore[return-value]
