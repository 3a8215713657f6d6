"""A hypernetwork made of several, and of plain tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from hyperloom.compat.hypnettorch._door.errors import require
from hyperloom.compat.hypnettorch._door.formats import check_format, from_samples
from hyperloom.compat.hypnettorch._door.inputs import ids_of, supplied
from hyperloom.compat.hypnettorch._door.ledger import Entry, Ledger, entry
from hyperloom.compat.hypnettorch._door.members import joined, take_over, train_members
from hyperloom.compat.hypnettorch.hnets.hnet_interface import HyperNetInterface

Assembly = Callable[[list[list[Tensor]], list[Tensor], list[Tensor]], list[Tensor]]


class HContainer(nn.Module, HyperNetInterface):
    """Several hypernetworks, shared tensors and tensors of each condition, put together.

    Natively that is a dict of layouts by name pattern, or `Assembled` where a pattern is not
    enough.

    Args:
        target_shapes: Shapes of the tensors to generate.
        assembly_fct: `f(outputs of the hnets, shared tensors, tensors of the condition)`, which
            returns the tensors of `target_shapes`, for one sample.
        hnets: The hypernetworks.
        uncond_param_shapes: Shapes of the shared tensors.
        cond_param_shapes: Shapes of the tensors that each condition has of its own.
        uncond_param_names: hypnettorch's names of the shared tensors, in `param_shapes_meta`.
        cond_param_names: Those of the conditions' tensors.
        verbose: Print what was made.
        no_uncond_weights: The shared tensors come from outside.
        no_cond_weights: The conditions' tensors come from outside.
        num_cond_embs: Number of conditions; that of `hnets` if no `cond_param_shapes` are given.
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        assembly_fct: Assembly,
        hnets: Sequence[Any] | None = None,
        uncond_param_shapes: Sequence[Sequence[int]] | None = None,
        cond_param_shapes: Sequence[Sequence[int]] | None = None,
        uncond_param_names: Sequence[str] | None = None,
        cond_param_names: Sequence[str] | None = None,
        verbose: bool = True,
        no_uncond_weights: bool = False,
        no_cond_weights: bool = False,
        num_cond_embs: int = 1,
    ) -> None:
        super().__init__()
        parts = (hnets, uncond_param_shapes, cond_param_shapes)
        if all(part is None for part in parts):
            raise ValueError("hnets: wanted, or uncond_param_shapes or cond_param_shapes.")
        for argument, part in zip(
            ("hnets", "uncond_param_shapes", "cond_param_shapes"), parts, strict=True
        ):
            empty = part is not None and len(part) == 0
            require(not empty, f"{argument}: got an empty list; wanted None for none.")
        self._hnets = list(hnets or ())
        self._assembly_fct = assembly_fct
        self._num_cond_tensors = len(cond_param_shapes or ())
        num = num_cond_embs
        if self._hnets and cond_param_shapes is None:
            num = self._hnets[0].num_known_conds
        same = all(hnet.num_known_conds == num for hnet in self._hnets)
        require(same, "hnets: they know different numbers of conditions.")
        shared = _plain(
            uncond_param_shapes,
            uncond_param_names,
            no_uncond_weights,
            {"celement_type": "uncond"},
            False,
        )
        own: list[Entry] = []
        for i in range(num):
            extra = {"celement_type": "cond", "celement_cind": i}
            own += _plain(cond_param_shapes, cond_param_names, no_cond_weights, extra, True)
        members = joined(self._hnets, "celement_ind", {"celement_type": "hnet"})
        ledger = Ledger((*members, *shared, *own))
        self._settle(ledger, target_shapes, num, hold=bool(self._hnets or ledger.held))
        take_over(self, self._hnets)
        self._mask_fc_out = False
        if shared or own or not self._hnets:
            self._has_fc_out = self._has_linear_out = False
        if verbose:
            print(self)

    @property
    def internal_hnets(self) -> list[Any]:
        """The hypernetworks given."""
        return self._hnets

    @property
    def hyper_shapes_learned(self) -> list[list[int]] | None:
        """Shapes of the parameters that come from outside; `None` where hypnettorch says so."""
        found = super().hyper_shapes_learned
        both = {e.conditional for e in self._ledger.held} == {False, True}
        return None if both and not self._hnets else found

    @property
    def hyper_shapes_learned_ref(self) -> list[int] | None:
        """For each of `hyper_shapes_learned`, its place in `param_shapes`."""
        return None if self.hyper_shapes_learned is None else super().hyper_shapes_learned_ref

    def train(self, mode: bool = True) -> HContainer:
        """Set the mode, that of `internal_hnets` too."""
        train_members(self._hnets, mode)
        return super().train(mode)

    def forward(
        self,
        uncond_input: Tensor | None = None,
        cond_input: Tensor | None = None,
        cond_id: int | list[int] | None = None,
        weights: Any = None,
        distilled_params: Any = None,
        condition: Any = None,
        ret_format: str = "squeezed",
    ) -> Any:
        """Generate weights; see `HyperNetInterface.forward`.

        The inputs go to all `internal_hnets`; with `cond_input`, `cond_id` goes to the plain
        tensors only. A dict of `weights` may hold `hnets`, a list of dicts with further weights
        for each of them.
        """
        check_format(ret_format)
        if distilled_params is not None:
            raise NotImplementedError("distilled_params are not supported.")
        if self._num_cond_tensors and cond_id is None:
            raise ValueError("cond_id: wanted, as conditions have tensors of their own.")
        uncond, cond = supplied(self, weights)
        further = weights.get("hnets") if isinstance(weights, dict) else None
        outputs = []
        for i, hnet in enumerate(self._hnets):
            given = {**self._of_member(i, uncond, cond), **(further[i] if further else {})}
            outputs.append(
                hnet.forward(
                    uncond_input=uncond_input,
                    cond_input=cond_input,
                    cond_id=cond_id if cond_input is None else None,
                    weights=given or None,
                    condition=condition,
                    ret_format="sequential",
                )
            )
        ids = None if cond_id is None else ids_of(cond_id, self.num_known_conds)
        sizes = [len(each) for each in (*outputs, *([ids] if ids else []))]
        num = max(sizes, default=1)
        text = f"Inputs with batch sizes {sorted(set(sizes))}; wanted one size."
        require(all(size in (1, num) for size in sizes), text)
        shared = self._plain_of(uncond, False)
        samples = [
            self._sample(
                [each[i if len(each) > 1 else 0] for each in outputs],
                shared,
                self._plain_of(cond, True, ids[i if len(ids) > 1 else 0]) if ids else [],
            )
            for i in range(num)
        ]
        return from_samples(samples, ret_format)

    def _sample(
        self, outputs: list[list[Tensor]], shared: list[Tensor], own: list[Tensor]
    ) -> list[Tensor]:
        """Put one sample together, and check what came out."""
        made = self._assembly_fct(outputs, shared, own)
        shapes = [tuple(t.shape) for t in made]
        wanted = [tuple(s) for s in self.target_shapes]
        require(shapes == wanted, f"assembly_fct: returned {shapes}; wanted {wanted}.")
        return made

    def _of_member(
        self, index: int, uncond: list[Tensor] | None, cond: list[Tensor] | None
    ) -> dict[str, list[Tensor]]:
        """Return the weights of one of the hypernetworks."""
        made: dict[str, list[Tensor]] = {}
        for key, tensors, conditional in (
            ("uncond_weights", uncond, False),
            ("cond_weights", cond, True),
        ):
            entries = [e for e in self._ledger.entries if e.conditional is conditional]
            pairs = zip(entries, tensors or (), strict=False)
            found = [t for e, t in pairs if e.extra.get("celement_ind") == index]
            if found:
                made[key] = found
        return made

    def _plain_of(
        self, tensors: list[Tensor] | None, conditional: bool, cond_id: int | None = None
    ) -> list[Tensor]:
        """Return the plain tensors that are shared, or those of a condition."""
        entries = [e for e in self._ledger.entries if e.conditional is conditional]
        pairs = zip(entries, tensors or (), strict=False)
        plain = [(e, t) for e, t in pairs if e.extra["celement_type"] != "hnet"]
        return [t for e, t in plain if e.extra.get("celement_cind") == cond_id]

    def distillation_targets(self) -> None:
        """Return `None`: there are none."""
        return None


def _plain(
    shapes: Sequence[Sequence[int]] | None,
    names: Sequence[str] | None,
    external: bool,
    extra: dict[str, Any],
    conditional: bool,
) -> list[Entry]:
    """Return entries of plain tensors, small normal draws."""
    shapes = shapes or ()
    if names is None:
        names = ["weight" if len(shape) > 1 else "bias" for shape in shapes]
    require(len(names) == len(shapes), f"Got {len(names)} names for {len(shapes)} shapes.")
    made = [
        entry(shape, name, -1, external, conditional=conditional, extra=dict(extra))
        for shape, name in zip(shapes, names, strict=True)
    ]
    for each in made:
        if each.parameter is not None:
            nn.init.normal_(each.parameter, std=0.02)
    return made
