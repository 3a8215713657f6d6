"""A hypernetwork under `transformers.Trainer` and Accelerate, as people train."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

import hyperloom.torch as hl
from tests.on_torch.peft_models import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Adapted(nn.Module):
    """What a trainer trains: every row of a batch is a text with a condition of its own."""

    def __init__(self, hnet: hl.HyperNetwork) -> None:
        super().__init__()
        self.hnet = hnet

    def forward(
        self, task: Tensor, input_ids: Tensor, attention_mask: Any = None, labels: Any = None
    ) -> Any:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        output = self.hnet(**inputs, condition=task, rows=torch.arange(len(task)))
        if labels is not None:  # over all tokens of all rows
            numbers = output.logits[:, :-1].flatten(0, 1)
            output["loss"] = F.cross_entropy(numbers, labels[:, 1:].flatten())
        return output


def adapted_llama(checkpointed: bool = False) -> Adapted:
    base: Any = FAMILIES["llama"].make()
    if checkpointed:
        base.gradient_checkpointing_enable()
    torch.manual_seed(0)
    hnet = hl.HyperNetwork(
        base,
        condition=hl.Embedding(4, 8),
        layout={"*.q_proj.weight": hl.Full(), "*.v_proj.weight": hl.Full()},
        form=hl.LoRA(2),
    )
    return Adapted(hnet)


def data(num: int = 8) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    texts = torch.randint(3, 40, (num, 6), generator=generator).tolist()
    mask = [1] * 6
    return [
        {"task": i % 4, "input_ids": text, "attention_mask": mask, "labels": text}
        for i, text in enumerate(texts)
    ]


def trained(model: nn.Module, folder: Path, again: Any = None, **options: Any) -> Any:
    settings = transformers.TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        optim="sgd",
        seed=0,
        data_seed=0,
        **options,
    )
    trainer = transformers.Trainer(model=model, args=settings, train_dataset=data())  # type: ignore[arg-type]
    trainer.train(resume_from_checkpoint=again)
    return trainer


def moved(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_accumulated_gradients_are_those_of_the_batch(tmp_path: Path) -> None:
    models = [adapted_llama(), adapted_llama()]
    sizes = ((8, 1), (2, 4))
    for model, (size, steps) in zip(models, sizes, strict=True):
        trained(
            model,
            tmp_path / str(size),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=2,
            save_strategy="no",
        )
    start, whole, parts = moved(adapted_llama()), moved(models[0]), moved(models[1])
    assert any(not torch.equal(start[name], whole[name]) for name in start)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6)


def test_the_hypernetwork_itself_is_not_taken_for_one_that_scales_its_loss(tmp_path: Path) -> None:
    options = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    trainer = transformers.Trainer(model=adapted_llama().hnet, args=options)
    assert not trainer.model_accepts_loss_kwargs


def test_checkpoints_hold_the_generator_and_resume(tmp_path: Path) -> None:
    options: dict[str, Any] = {"per_device_train_batch_size": 4, "num_train_epochs": 2}
    options |= {"save_strategy": "epoch"}
    model = adapted_llama()
    trained(model, tmp_path, **options)
    held = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert {name for name in held if not name.endswith("fingerprint")} == set(moved(model))
    again = adapted_llama()
    trained(again, tmp_path, str(tmp_path / "checkpoint-2"), **options)
    for name, value in moved(model).items():
        torch.testing.assert_close(moved(again)[name], value)


def test_a_base_that_checkpoints_its_activations(tmp_path: Path) -> None:
    models = [adapted_llama(), adapted_llama(checkpointed=True)]
    for i, model in enumerate(models):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"per_device_train_batch_size": 4, "max_steps": 2, "save_strategy": "no"}
            trained(model, tmp_path / str(i), **options)
    for name, value in moved(models[0]).items():
        torch.testing.assert_close(moved(models[1])[name], value, rtol=1e-4, atol=1e-6)


def test_accelerate() -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    plain = adapted_llama()
    model = adapted_llama()
    rows = {name: torch.tensor([row[name] for row in data()]) for name in data()[0]}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    for half in range(2):
        with accelerator.accumulate(prepared):
            batch = {name: value[4 * half : 4 * half + 4] for name, value in rows.items()}
            accelerator.backward(prepared(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
    plain(**rows).loss.backward()
    with torch.no_grad():
        for parameter in plain.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    for name, value in moved(plain).items():
        torch.testing.assert_close(moved(model)[name], value, rtol=1e-4, atol=1e-6)
