"""Adapters from descriptions: a sentence says what a language model is to do, and it does it.

A small Llama knows 64 letter tasks, an order of five letters and a shift in the alphabet, by codes.
Without the codes it can only guess. A generator reads a description, as a frozen sentence encoder
sees it, and gives the LoRA with which the model does what was described.

This package holds what needs no framework: the tasks and their descriptions.
`hyperloom.recipes.describe.torch` has the base, the encoder and the generators.

    from hyperloom.recipes.describe import TASKS
    from hyperloom.recipes.describe.torch import SentenceEncoder, describer, letter_model

    model, encoder = letter_model(), SentenceEncoder()
    hnet = describer(model, width=384, size="L")
    logits = hnet(input_ids=tokens, condition=encoder(["Reverse the word."])).logits

`python -m hyperloom.recipes.describe` trains and measures all of it.

Method: Charakorn, Cetin, Tang and Lange, "Text-to-LoRA: Instant Transformer Adaption", ICML 2025.
"""

from hyperloom.recipes.describe.data import ORDERS, SHIFTS, TASKS, Task, spelled, texts

__all__ = ["ORDERS", "SHIFTS", "TASKS", "Task", "spelled", "texts"]
