"""The Hugging Face hub: `from hyperloom.hub import Hub`.

Needs huggingface_hub: `pip install "hyperloom[hub]"`.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download

from hyperloom import __version__
from hyperloom._core.errors import message, shown
from hyperloom._core.plan.picture import draw
from hyperloom._core.plan.plan import Plan

FILE = "model.safetensors"
PICTURE = "plan.svg"
_CARD = """---
library_name: hyperloom
tags:
- hypernetwork
---

# A hypernetwork of {target}

A hyperloom hypernetwork: it generates {generated:,} numbers of a {target} for each condition, from
{learned:,} learned ones.

![The plan, to scale: what is generated, by what]({picture})

```text
{plan}
```

```python
from hyperloom.hub import Hub

target = ...                # a {target} as it was, unmodified
hnet = Hub.from_pretrained("{repo}", target=target).hnet
```
"""


class Hub(ModelHubMixin, library_name="hyperloom", tags=["hypernetwork"]):
    """A hypernetwork with the manners of the hub: `Hub(hnet).push_to_hub("user/name")`.

    A repository has the checkpoint (safetensors, no pickle), a `config.json` that says what it is
    of, the plan as a picture, and a model card drawn from the plan.

    Args:
        hnet: A `HyperNetwork` of either backend.

    Attributes:
        hnet: As given, or as loaded.

    Raises:
        TypeError: No hypernetwork.

    Example:
        >>> Hub(hnet).save_pretrained("folder")
        >>> hnet = Hub.from_pretrained("folder", target=target).hnet    # or "user/name"
    """

    def __init__(self, hnet: Any) -> None:
        if not isinstance(getattr(hnet, "plan", None), Plan):
            raise TypeError(message("hnet", shown(hnet), "a HyperNetwork"))
        self.hnet = hnet

    def _save_pretrained(self, save_directory: Path) -> None:
        plan = self.hnet.plan
        _backend(self.hnet).save(self.hnet, save_directory / FILE)
        (save_directory / PICTURE).write_text(draw(plan), "utf-8")
        said = {
            "hyperloom": __version__,
            "target": plan.spec.name,
            "condition": str(plan.condition),
            "num_parameters": plan.num_parameters,
            "num_generated": plan.num_generated,
        }
        (save_directory / "config.json").write_text(json.dumps(said, indent=2) + "\n", "utf-8")

    def generate_model_card(self, *args: Any, repo: str = "user/name", **kwargs: Any) -> ModelCard:
        """Return the model card that is drawn from the plan.

        Args:
            *args: Not used.
            repo: What the card's example loads.
            **kwargs: Not used.
        """
        plan = self.hnet.plan
        text = _CARD.format(
            target=plan.spec.name,
            generated=plan.num_generated,
            learned=plan.num_parameters,
            picture=PICTURE,
            plan=plan,
            repo=repo,
        )
        return ModelCard(text)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload to the hub; arguments as of huggingface_hub's mixin. Returns the commit's url."""
        card = {"repo": repo_id, **(kwargs.pop("model_card_kwargs", None) or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=card, **kwargs)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        target: Any = None,
        **options: Any,
    ) -> Hub:
        """Load from a folder or the hub; `options` are those of the backend's `load`."""
        if target is None:
            way_out = 'Hub.from_pretrained("user/name", target=module) fills a copy of its plan.'
            raise TypeError(message("target", "nothing", "the target, as it was", way_out))
        path = Path(model_id) / FILE
        if not path.is_file():
            where = hf_hub_download(
                model_id,
                FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
            path = Path(where)
        return cls(_backend_of(target).load(path, target, **options))


def _backend(hnet: Any) -> Any:
    """Return the public module that a hypernetwork is of."""
    return import_module(".".join(type(hnet).__module__.split(".")[:2]))


def _backend_of(target: Any) -> Any:
    """Return the public module that runs a target."""
    of_torch = any(c.__module__.partition(".")[0] == "torch" for c in type(target).__mro__)
    return import_module(f"hyperloom.{'torch' if of_torch else 'jax'}")
