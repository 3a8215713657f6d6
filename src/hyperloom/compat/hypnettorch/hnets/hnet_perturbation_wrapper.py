"""A hypernetwork with its inputs and outputs processed: perturbed, by default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hyperloom.compat.hypnettorch._door.errors import require
from hyperloom.compat.hypnettorch._door.formats import check_format, from_flat
from hyperloom.compat.hypnettorch._door.members import take_over
from hyperloom.compat.hypnettorch.hnets.hnet_interface import HyperNetInterface


class HPerturbWrapper(nn.Module, HyperNetInterface):
    """A hypernetwork whose output is perturbed: `h(z[:n]) + sigma_noise * z`.

    So an implicit distribution gets support in the whole space of weights. `z` is the
    unconditional input, as wide as the output. Natively that is `Perturbed`.

    Args:
        hnet: The hypernetwork.
        hnet_uncond_in_size: Width `n` of its unconditional input.
        sigma_noise: Strength of the perturbation.
        input_handler: `f(uncond_input=, cond_input=, cond_id=)` that returns these three as they
            go into `hnet`, in place of the above.
        output_handler: `f(output (B, num_outputs), uncond_input=, cond_input=, cond_id=)` that
            returns the output, in place of the above.
        verbose: Print what was made.

    Raises:
        ValueError: Neither `input_handler` nor `hnet_uncond_in_size` is given.
    """

    def __init__(
        self,
        hnet: Any,
        hnet_uncond_in_size: int | None = None,
        sigma_noise: float = 0.02,
        input_handler: Callable[..., Any] | None = None,
        output_handler: Callable[..., Tensor] | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__()
        require(isinstance(hnet, HyperNetInterface), "hnet: wanted a hypernetwork.")
        if input_handler is None and hnet_uncond_in_size is None:
            raise ValueError("input_handler: wanted, or hnet_uncond_in_size.")
        self._hnet = hnet
        self._hnet_uncond_in_size = hnet_uncond_in_size
        self._sigma_noise = sigma_noise
        self._input_handler, self._output_handler = input_handler, output_handler
        self._settle(
            hnet._ledger,
            hnet.target_shapes,
            hnet.num_known_conds,
            hold=hnet.internal_params is not None,
        )
        take_over(self, [hnet])
        self._mask_fc_out = hnet.mask_fc_out
        self._has_fc_out = self._has_linear_out = False
        if verbose:
            print(f"Perturbed {hnet}")

    @property
    def internal_hnet(self) -> Any:
        """The hypernetwork given."""
        return self._hnet

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
        """Generate weights; see `HyperNetInterface.forward`."""
        check_format(ret_format)
        given: dict[str, Any] = {
            "uncond_input": uncond_input,
            "cond_input": cond_input,
            "cond_id": cond_id,
        }
        inner = (uncond_input, cond_input, cond_id)
        if self._input_handler is not None:
            inner = self._input_handler(**given)
        else:
            require(uncond_input is not None, "uncond_input: wanted.")
            assert uncond_input is not None
            inner = (uncond_input[:, : self._hnet_uncond_in_size], cond_input, cond_id)
        made = self._hnet.forward(
            uncond_input=inner[0],
            cond_input=inner[1],
            cond_id=inner[2],
            weights=weights,
            distilled_params=distilled_params,
            condition=condition,
            ret_format="flattened",
        )
        if self._output_handler is not None:
            made = self._output_handler(made, **given)
        else:
            text = f"uncond_input: wanted a tensor of shape {tuple(made.shape)}, as the output."
            require(uncond_input is not None and uncond_input.shape == made.shape, text)
            assert uncond_input is not None
            made = made + self._sigma_noise * uncond_input
        return from_flat(made, self.target_shapes, ret_format)

    def distillation_targets(self) -> Any:
        """Return those of the hypernetwork given."""
        return self._hnet.distillation_targets()
