"""Checks of arguments that all backends have, for the arrays of any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperloom._core.choices.conditions import Condition, Custom, CustomRecurrent
from hyperloom._core.choices.trunks import CustomTrunk, Trunk
from hyperloom._core.errors import a_kind, a_mapping, a_string, message, shown
from hyperloom._core.plan.plan import Plan


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


def a_plan(argument: str, value: object) -> Plan:
    """Return `value` if it is a plan; raise `TypeError` otherwise."""
    return a_kind(argument, value, Plan, "a Plan, such as hnet.plan")


def check_again(plan: Plan, condition: Condition | None, trunk: Any, module: type) -> None:
    """Raise unless what is given beside a plan stands for what the plan leaves open.

    Args:
        plan: The plan.
        condition: What the condition given is, or `None` for none.
        trunk: The trunk given, or `None`.
        module: The backend's class of modules.
    """
    if condition is not None and condition != plan.condition:
        same = isinstance(condition, Custom) and isinstance(plan.condition, Custom)
        carries = isinstance(condition, CustomRecurrent) == isinstance(
            plan.condition, CustomRecurrent
        )
        if not (same and carries and condition.width == plan.condition.width):
            raise ValueError(message("condition", f"{condition}", f"{plan.condition}, as the plan"))
    if isinstance(plan.trunk, CustomTrunk):
        a_kind("trunk", trunk, module, f"the module that the plan calls {plan.trunk}")
    elif trunk is not None and not (isinstance(trunk, Trunk) and trunk == plan.trunk):
        raise TypeError(message("trunk", shown(trunk), f"None: the plan has {plan.trunk}"))
