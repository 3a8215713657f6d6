"""`Generator`: a plan with the modules that execute it, from condition to tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom._core.backend import protocol
from hyperloom._core.backend.checks import growing
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.factors import Factors, join_factors
from hyperloom._core.backend.views import need_carry
from hyperloom._core.backend.walk import SLOT_TABLES
from hyperloom._core.choices.conditions import Embedding
from hyperloom._core.choices.trunks import MLP, CustomTrunk, Linear
from hyperloom._core.plan.part import Part
from hyperloom._core.plan.plan import Plan
from hyperloom.torch._generate.build import Built
from hyperloom.torch._generate.conditions import EmbeddingCondition
from hyperloom.torch._generate.encoded import Encoded
from hyperloom.torch._generate.norms import IdNorm
from hyperloom.torch._generate.numbers import assemble, cut, raw_numbers
from hyperloom.torch._generate.supplied import generate_with
from hyperloom.torch._generate.table import grow_rows
from hyperloom.torch._target.placeholder import Ungenerated
from hyperloom.torch._target.tensors import TensorTree


class Generator(nn.Module):
    """The half of a hypernetwork that generates; it knows the target's shapes, not the target.

    Everything that is learned stands here, under the names that the state dict has.

    Attributes:
        plan: The plan.
        condition: Raw value -> vector and ids.
        trunks: One for each width of slot embeddings.
        heads: By the plan's names.
        scales: `(num_pieces, 2)` or `None`.
        bases: The tensors that forms with a base change.
        banks: The plan's banks.
        native: What the tables' rows of ids added later start from.
        dtypes: The dtype that each tensor of the target is wanted in.
    """

    plan: Plan
    condition: nn.Module
    trunks: nn.ModuleList
    heads: nn.ModuleDict
    scales: Tensor | None
    bases: TensorTree
    banks: nn.ParameterList
    native: TensorTree
    dtypes: dict[str, torch.dtype]

    def __init__(self, built: Built) -> None:
        super().__init__()
        self.plan = built.plan.fill_caches()
        self.condition = built.condition
        self.trunks = built.trunks
        self.heads = built.heads
        self.register_buffer("scales", built.scales)
        self.bases = built.bases
        self.banks = built.banks
        self.native = built.native
        self.dtypes = {t.name: getattr(torch, t.dtype) for t in built.plan.spec}
        self._has_carry = built.plan.condition.has_carry

    @completes(protocol.HyperNetwork.encode)
    def encode(self, condition: Any, carry: Any = None) -> Encoded:
        # Past nn.Module's look-up of attributes, here and below: it costs what a small layer does.
        module: Any = self._modules["condition"]
        if carry is None:
            return module(condition)
        need_carry(self.plan)
        return module(condition, carry)

    @completes(protocol.HyperNetwork.generate)
    def generate(
        self,
        condition: Any,
        *,
        carry: Any = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """Names of `parameters` are those in `named_parameters()` and `named_buffers()`.

        To run with other parameters, use
        `torch.func.functional_call(hnet, parameters, inputs, {"condition": ...})`.
        """
        if parameters is not None:
            return generate_with(self, condition, parameters, carry)
        encoded = self.encode(condition, carry)
        tensors = tensors_of(self, encoded)
        return (tensors, encoded.carry) if self._has_carry else tensors

    @completes(protocol.HyperNetwork.factors)
    def factors(self, condition: Any, *, carry: Any = None) -> Any:
        encoded = self.encode(condition, carry)
        factors = factors_of(self, encoded)
        return (factors, encoded.carry) if self._has_carry else factors

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        for name, dtype in self.dtypes.items():
            self.dtypes[name] = fn(torch.empty(0, dtype=dtype)).dtype
        return self


class PartGenerator(Generator):
    """What generates some of the tensors, from the numbers that another generator has.

    Made for one call: it holds cuts of the parameters as they are.

    Args:
        whole: The other generator.
        part: Of its plan.
        device: Where the tensors are.
        uses: Where uses of tensors are noted that are left out.

    Attributes:
        left_out: What stands in the place of those, by name.
    """

    def __init__(self, whole: Generator, part: Part, device: torch.device, uses: list[str]) -> None:
        nn.Module.__init__(self)
        modules: Any = whole._modules
        self.condition = modules["condition"]
        self.plan, self.dtypes = part.plan, whole.dtypes
        trunks, heads = list(modules["trunks"]), modules["heads"]
        self.trunks = nn.ModuleList([trunks[place] for place in part.trunks])
        self.heads = nn.ModuleDict(
            {
                head.name: heads[head.name].taken(part.plan, i, part.ranges[i])
                for i, head in enumerate(part.plan.heads)
            }
        )
        if part.plan.slot_tables:
            self.heads[SLOT_TABLES] = heads[SLOT_TABLES]
        scales = whole.scales
        self.scales = scales if scales is None else scales[list(part.pieces)]
        self.bases, self.banks = whole.bases, whole.banks
        self.left_out: dict[str, Tensor] = {
            name: Ungenerated.of(name, whole.plan.spec[name].shape, dtype, device, uses)
            for name, dtype in whole.dtypes.items()
            if name in whole.plan.rows_by_name and name not in part.plan.rows_by_name
        }


def runs_slots_alone(generator: Generator) -> bool:
    """Whether a trunk gives each slot what it would without the others."""
    trunk = generator.plan.trunk
    alone = isinstance(trunk, MLP) and not trunk.dropout and trunk.norm != "batch"
    return alone or isinstance(trunk, Linear)


def is_hooked(generator: Generator) -> bool:
    """Whether a head has hooks, which are to see all of it."""
    heads: Any = generator._modules["heads"]
    return any(h._forward_hooks or h._forward_pre_hooks for h in heads._modules.values())


def tensors_of(generator: Generator, encoded: Encoded) -> dict[str, Tensor]:
    """Return the tensors `{name: (*batch, *shape)}` of encoded conditions."""
    modules: Any = generator._modules
    scales, bases, banks = fixed_of(generator)
    raw = raw_numbers(generator.plan, modules["trunks"], modules["heads"], encoded, scales)
    return assemble(generator.plan, raw, bases, banks, generator.dtypes)


def factors_of(generator: Generator, encoded: Encoded) -> dict[str, Factors]:
    """Return the factors `{name: Factors}` of encoded conditions."""
    banks = fixed_of(generator)[2]
    return join_factors(generator.plan, parts_of(generator, encoded), banks)


def parts_of(generator: Generator, encoded: Encoded) -> list[Tensor]:
    """Return the parts `(*batch, *part shape)` of all tensors, in the order of the pieces."""
    modules: Any = generator._modules
    scales = fixed_of(generator)[0]
    raw = raw_numbers(generator.plan, modules["trunks"], modules["heads"], encoded, scales)
    return cut(generator.plan, raw)


def fixed_of(generator: Generator) -> tuple[Tensor | None, dict[str, Tensor], list[Tensor]]:
    """Return the scales, bases and banks, as far as the plan has any."""
    plan = generator.plan
    scales = generator.scales if plan.has_scales else None
    bases = dict(generator.bases.tensors()) if plan.has_bases else {}
    return scales, bases, list(generator.banks) if plan.banks else []


def may_share(generator: Generator, encoded: Encoded) -> bool:
    """Whether rows may share a condition, and the vector is a function of the id alone."""
    known = isinstance(generator.plan.condition, Embedding)
    return known and encoded.ids is not None and isinstance(generator.condition, EmbeddingCondition)


def distinct(generator: Generator, encoded: Encoded) -> tuple[Encoded, Tensor | None]:
    """Return each condition once and which one each row has, if rows share conditions.

    Only where that cannot change a result: the trunk draws nothing and keeps no statistics. With
    more rows than twice the ids there are, all ids are generated, which needs no look at the
    values; else, on the CPU, those that occur.

    Returns:
        The conditions to generate and the index of each row `(B,)`; or the conditions as they
        were and `None`.
    """
    condition: Any = generator.condition
    table, ids = condition.table, encoded.ids
    assert ids is not None
    if not _deterministic(generator):
        return encoded, None
    num = ids.shape[0]  # len() makes a constant of an exporter's symbol
    if torch.compiler.is_exporting():  # the program is to take any number of conditions
        return encoded, None
    if num >= 2 * table.num:
        every = torch.arange(table.num, device=ids.device)
        return Encoded(table.look_up(every), every), ids
    if ids.device.type != "cpu" or torch.compiler.is_compiling():
        return encoded, None
    try:
        present, index = torch.unique(ids, return_inverse=True)
        few = 2 * len(present) <= num
    except RuntimeError:  # a traced value cannot be read
        return encoded, None
    return (Encoded(table.look_up(present), present), index) if few else (encoded, None)


def _deterministic(generator: Generator) -> bool:
    """Whether the trunk gives equal rows for equal conditions, whatever else is in the batch."""
    trunk = generator.plan.trunk
    if isinstance(trunk, MLP):
        return not (_training(generator.trunks) and (trunk.dropout > 0 or trunk.norm == "batch"))
    if isinstance(trunk, Linear):
        return True
    return generator.plan.trunk_over_slots and not isinstance(trunk, CustomTrunk)


def _training(module: nn.Module) -> bool:
    return any(part.training for part in module.modules())


def grow(generator: Generator, num: int) -> list[nn.Parameter]:
    """Add `num` ids to everything that is looked up by id; return the new parameters."""
    plan = generator.plan
    embeddings = [m for m in generator.condition.modules() if isinstance(m, EmbeddingCondition)]
    num = growing(plan, num, len(embeddings))
    native = dict(generator.native.tensors())
    added = [grow_rows(embeddings[0].table, num, embeddings[0].reset)]
    for head in plan.heads:
        module: Any = generator.heads[head.name]
        added += module.grow(num, native)
    for part in generator.trunks.modules():
        if isinstance(part, IdNorm):
            part.grow(num)
    generator.plan = replace(plan, condition=plan.condition.with_more_ids(num)).fill_caches()
    return added
