"""From PEFT's configuration to a layout and a form."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

from torch import nn

from hyperloom._core.choices.forms import Delta, DoRA, Form, LoRA
from hyperloom._core.choices.layouts import Full, Layout
from hyperloom._core.errors import a_kind, message, shown
from hyperloom._core.target.spec import TargetSpec
from hyperloom.torch._target.spec import target_spec
from hyperloom.torch._tools.peft.layers import kind_of, need, refuse_lengths, refuse_tied

# What of a LoraConfig is read; `init_lora_weights` has no meaning where factors are generated, but
# some of its values change the base.
_READ = {
    *("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("modules_to_save", "fan_in_fan_out", "init_lora_weights", "task_type", "peft_type"),
    *("auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("runtime_config", "megatron_core", "qalora_group_size"),
}
_INSTEAD = {
    "lora_dropout": "Set it to 0; MLP(dropout=) in the trunk drops what adapters are made of.",
    "bias": "Set it to 'none', and add the biases to layout with the form Delta().",
}


def choices(
    model: nn.Module, config: Any, *, layout: Layout | None = None
) -> tuple[dict[str, Layout], dict[str, Form]]:
    """Return the layout and the form that generate what a `LoraConfig` adapts.

    Layers are found by PEFT's own rules: `target_modules` as a list, a regular expression,
    `"all-linear"` or PEFT's default for the class of model, `exclude_modules`,
    `layers_to_transform`, `rank_pattern`, `alpha_pattern`. Their weights get `LoRA`, or `DoRA`
    with `use_dora`; all tensors of `modules_to_save` get `Delta`. Biases stay the model's.

    Args:
        model: The target.
        config: A `peft.LoraConfig`.
        layout: Which numbers become these tensors. Default `Full()`.

    Returns:
        Two dicts by name, for `HyperNetwork(model, layout=..., form=...)`; add to them what else
        is to be generated.

    Raises:
        ModuleNotFoundError: PEFT is not installed.
        TypeError: No module, or the configuration of another method.
        ValueError: It names no layer, a layer that has no LoRA, a tied tensor, or asks for
            something that no form does.
    """
    a_kind("model", model, nn.Module, "a torch.nn.Module")
    config = checked(config)
    layout = a_kind("layout", Full() if layout is None else layout, Layout, "a Layout")
    spec = target_spec(model, measured=())
    utils = need("peft.utils.other")
    forms: dict[str, Form] = {}
    for path in _matched(model, config):
        module = model.get_submodule(path)
        if not kind_of(module):
            wanted = "linear layers, embeddings, convolutions without groups, or Conv1D"
            got = f"{path!r}, a {type(module).__name__}"
            raise ValueError(message("target_modules", got, wanted))
        name = f"{path}.weight"
        refuse_tied("target_modules", spec[name])
        if config.use_dora:
            refuse_lengths("target_modules", kind_of(module), spec[name])
        rank = config.rank_pattern.get(utils.get_pattern_key(config.rank_pattern, path), config.r)
        alphas = config.alpha_pattern
        alpha = alphas.get(utils.get_pattern_key(alphas, path), config.lora_alpha)
        form = DoRA if config.use_dora else LoRA
        forms[name] = form(rank, alpha, rslora=config.use_rslora)
    forms |= _saved(model, config, spec, forms)
    return dict.fromkeys(forms, layout), forms


def checked(config: Any) -> Any:
    """Return a `LoraConfig` if all that it asks for can be done; raise otherwise."""
    peft = need("peft")
    if not isinstance(config, peft.PeftConfig):
        raise TypeError(message("config", shown(config), "a peft.LoraConfig"))
    if type(config) is not peft.LoraConfig:
        wanted = "a peft.LoraConfig"
        way_out = "Other methods have forms: Scale() is IA3, Delta() on biases or norms is BitFit."
        raise TypeError(message("config", f"a {type(config).__name__}", wanted, way_out))
    usual = peft.LoraConfig()
    for field in fields(config):
        value, default = getattr(config, field.name), getattr(usual, field.name)
        if field.name not in _READ and value != default:
            way_out = _INSTEAD.get(field.name, "")
            wanted = f"{default!r}: no form does it"
            raise ValueError(message(f"config.{field.name}", shown(value), wanted, way_out))
    start = config.init_lora_weights
    if not isinstance(start, bool) and start != "gaussian":
        wanted = "True: generated factors start as LoRA's, and the base stays as it is"
        raise ValueError(message("config.init_lora_weights", shown(start), wanted))
    return config


def _matched(model: nn.Module, config: Any) -> list[str]:
    """Return the paths of the layers that PEFT would adapt, in the model's order."""
    config, tuners = copy.copy(config), need("peft.tuners.tuners_utils")
    if config.target_modules is None:
        known = need("peft.utils").TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
        kind = getattr(getattr(model, "config", None), "model_type", None)
        if kind not in known:
            wanted = "names of layers: PEFT has no default for this model"
            raise ValueError(message("config.target_modules", "None", wanted))
        config.target_modules = set(known[kind])
    asked = config.target_modules
    config = tuners._maybe_include_all_linear_layers(config, model)
    paths = []
    for path, _ in model.named_modules():
        match = tuners.check_target_module_exists(config, path)
        if match and not isinstance(match, tuners._ExcludedModule):
            paths.append(path)
    if not paths:
        names = sorted({path.rpartition(".")[2] for path, m in model.named_modules() if kind_of(m)})
        wanted = f"names of layers of {type(model).__name__}"
        raise ValueError(
            message("config.target_modules", shown(asked), wanted, f"There are: {names}.")
        )
    return paths


def _saved(
    model: nn.Module, config: Any, spec: TargetSpec, taken: dict[str, Form]
) -> dict[str, Form]:
    """Return the form of each tensor of `modules_to_save`."""
    forms: dict[str, Form] = {}
    for wanted_end in config.modules_to_save or ():
        paths = [path for path, _ in model.named_modules() if path.endswith(wanted_end)]
        if not paths:
            wanted = f"names of modules of {type(model).__name__}"
            raise ValueError(message("config.modules_to_save", repr(wanted_end), wanted))
        for tensor in spec:
            if any(tensor.name.startswith(f"{path}.") for path in paths):
                refuse_tied("config.modules_to_save", tensor)
                forms[tensor.name] = Delta()
    both = sorted(set(forms) & set(taken))
    if both:
        wanted = "modules without layers of target_modules"
        raise ValueError(message("config.modules_to_save", repr(both[0]), wanted))
    return forms
