"""The cases, in the report's order."""

from __future__ import annotations

from importlib.util import find_spec

from benchmarks import (
    _jax,
    adapters,
    continual,
    conv,
    curves,
    dynamic,
    film,
    generate,
    grid,
    imports,
    jax_compile,
    jax_conv,
    jax_dynamic,
    limits,
    lora,
    rows,
    single,
)
from benchmarks._case import Case

_MODULES = (
    dynamic,
    limits,
    grid,
    lora,
    rows,
    film,
    conv,
    continual,
    single,
    generate,
    imports,
    curves,
)
if _jax.HAS_JAX:
    _MODULES = (*_MODULES, jax_dynamic, jax_conv, jax_compile)
if find_spec("transformers") and find_spec("peft"):
    _MODULES = (*_MODULES, adapters)
CASES: dict[str, Case] = {module.CASE.name: module.CASE for module in _MODULES}
