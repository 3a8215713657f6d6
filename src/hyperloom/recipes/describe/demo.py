"""`python -m hyperloom.recipes.describe`: train, compare, export to PEFT, draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperloom.recipes.describe import plots
from hyperloom.recipes.describe import torch as recipe
from hyperloom.recipes.describe.data import TASKS, Task, spelled, texts

BASE, SFT, LIBRARY, IMITATE = 3000, 1500, 800, 1500
_INTRODUCTION = (
    "[bold]Adapters from descriptions[/bold] (Text-to-LoRA). A small Llama has learned 64 letter "
    "tasks, 8 orders of five letters x 8 shifts in the alphabet, by codes, and sees none now: it "
    "can only guess. A generator reads a sentence and gives the LoRA with which it does the task."
)
SEEN, PARAPHRASE, COMBINATION = "seen description", "unseen paraphrase", "unseen combination"
OTHER, NONE = "another task's description", "no adapter"


def demo(run: Any) -> None:
    """Run the recipe.

    Args:
        run: Options and outputs; `run.data` is the folder of a sentence encoder.
    """
    run.introduce(_INTRODUCTION)
    torch.manual_seed(run.seed)
    rng = np.random.default_rng(run.seed)
    encoder = recipe.SentenceEncoder(run.data)
    model = recipe.letter_model()
    total = run.steps or BASE
    recipe.train_base(model, run.train("the base", BASE), total, rng)
    seen = [task for task in TASKS if not task.unseen]
    said = _sentences(seen, rng)
    vectors = {name: _encoded(encoder, run, name, of_task) for name, (_, of_task) in said.items()}
    width = vectors[SEEN].shape[-1]

    through_base = recipe.describer(model, width)
    total = run.steps or SFT
    recipe.train(through_base, vectors[SEEN], seen, run.train("SFT", SFT), total, rng)
    adapters = recipe.library(model, len(seen))
    total = run.steps or LIBRARY
    ids = torch.arange(len(seen)).unsqueeze(1)
    recipe.train(adapters, ids, seen, run.train("adapters to imitate", LIBRARY), total, rng, 1e-2)
    imitating = recipe.describer(model, width)
    total = run.steps or IMITATE
    recipe.imitate(
        imitating, adapters, vectors[SEEN], run.train("reconstruction", IMITATE), total, rng
    )
    run.settings(base=BASE, sft=SFT, library=LIBRARY, imitate=IMITATE, rank=recipe.RANK)

    generators = {"SFT": through_base, "reconstruction": imitating}
    shares = _shares(generators, vectors, {name: tasks for name, (tasks, _) in said.items()}, rng)
    own = recipe.accuracy(adapters, ids, seen, rng).mean()
    none = _unadapted(model, rng)
    columns = [*generators, "an adapter each"]
    rows = {name: {k: 100 * float(v.mean()) for k, v in s.items()} for name, s in shares.items()}
    rows[SEEN][columns[-1]] = 100 * float(own)
    rows[NONE] = dict.fromkeys(columns, 100 * none)
    run.table("Exact answers, %", rows)
    _peft(run, model, through_base, vectors, said, rng)
    run.figure(
        "tasks.png", plots.tasks(shares[PARAPHRASE]["SFT"], shares[COMBINATION]["SFT"]), "each task"
    )
    run.figure("means.png", plots.means(rows, columns[:2]), "what it was told, and what it did")
    _examples(run, through_base, encoder, rng)
    _claims(run, rows)
    run.checkpoint(recipe.hl, through_base)


def _sentences(
    seen: Sequence[Task], rng: np.random.Generator
) -> dict[str, tuple[Sequence[Task], list[list[str]]]]:
    """Return for each kind of description the tasks, and several sentences of each."""
    unseen = [task for task in TASKS if task.unseen]
    kinds = (
        (SEEN, seen, 80, False),
        (PARAPHRASE, seen, 16, True),
        (COMBINATION, unseen, 16, False),
    )
    return {
        name: (tasks, [task.descriptions(num, rng, held_out=held_out) for task in tasks])
        for name, tasks, num, held_out in kinds
    }


def _encoded(encoder: Any, run: Any, name: str, sentences: list[list[str]]) -> Tensor:
    """Return the vectors of sentences, `(tasks, num, width)`."""
    return torch.stack([encoder(of_task) for of_task in run.track(f"{name}s", sentences)])


def _shares(
    generators: Mapping[str, Any],
    vectors: Mapping[str, Tensor],
    tasks: Mapping[str, Sequence[Task]],
    rng: np.random.Generator,
) -> dict[str, dict[str, np.ndarray]]:
    """Return the share of exact answers, `(tasks, num)`, by kind of description and generator."""
    few = {name: of_all[:, :4] for name, of_all in vectors.items()}
    found = {
        name: {g: recipe.accuracy(h, few[name], tasks[name], rng) for g, h in generators.items()}
        for name in few
    }
    wrong = few[SEEN].roll(1, 0)  # the next task differs in its shift
    found[OTHER] = {g: recipe.accuracy(h, wrong, tasks[SEEN], rng) for g, h in generators.items()}
    return found


@torch.no_grad()
def _unadapted(model: Any, rng: np.random.Generator) -> float:
    tokens = torch.from_numpy(texts(TASKS, 16, rng)).flatten(0, 1)
    return float(recipe.exact(model(input_ids=tokens).logits, tokens).float().mean())


def _peft(
    run: Any,
    model: Any,
    hnet: Any,
    vectors: Mapping[str, Tensor],
    said: Mapping[str, tuple[Sequence[Task], Any]],
    rng: np.random.Generator,
) -> None:
    """Export an adapter of every task, and say whether PEFT does the same with it."""
    kinds = (SEEN, COMBINATION)
    of_each = torch.cat([vectors[kind][:, 0] for kind in kinds])
    tasks = [task for kind in kinds for task in said[kind][0]]
    folder = run.path("adapters", "an adapter of each task, for PeftModel.from_pretrained")
    share, others = recipe.through_peft(model, hnet, of_each, tasks, folder, rng)
    run.claim(
        "All exported adapters do the same through PEFT",
        others == 0,
        f"{len(tasks)} adapters, {100 * share:.1f} % exact, {others} that differ",
    )


@torch.no_grad()
def _examples(run: Any, hnet: Any, encoder: Any, rng: np.random.Generator) -> None:
    """Say what the model answers to a word under some descriptions."""
    for task in (TASKS[9], TASKS[23], TASKS[42]):
        (sentence,) = task.descriptions(1, rng, held_out=True)
        tokens = torch.from_numpy(texts([task], 1, rng)[0])
        logits = hnet(input_ids=tokens, condition=encoder([sentence])[0]).logits
        word, answer = tokens[0, 2:7].numpy(), logits[0, -6:-1].argmax(-1).numpy().clip(0, 25)
        run.console.print(f"  {sentence} {spelled(word)} -> {spelled(answer)}", highlight=False)


def _claims(run: Any, rows: Mapping[str, Mapping[str, float]]) -> None:
    least = {SEEN: 98, PARAPHRASE: 60, COMBINATION: 45}
    for name, bound in least.items():
        share = rows[name]["SFT"]
        run.claim(f"{name}: {bound} % exact at least", share >= bound, f"{share:.1f} %")
    share = rows[OTHER]["SFT"]
    run.claim("with another task's description it does not", share <= 5, f"{share:.1f} % exact")
