"""The table of architectures: models of the transformers library, tiny, with random weights.

Nothing is downloaded: every model is built from a configuration.
"""

from __future__ import annotations

from tests.zoo.perception_models import audio_models, multimodal, vision
from tests.zoo.text_models import decoders, encoders, mixtures, seq2seq, state_spaces

ARCHITECTURES = [
    *encoders(),
    *decoders(),
    *mixtures(),
    *state_spaces(),
    *seq2seq(),
    *vision(),
    *audio_models(),
    *multimodal(),
]
