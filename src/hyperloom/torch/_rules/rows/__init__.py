"""What functions do when rows of one batch meet the weights of their conditions."""

from hyperloom.torch._rules.rows import elementwise as elementwise  # their rules are registered
from hyperloom.torch._rules.rows import layers as layers
