"""What a function of PyTorch does when it meets a generated weight, or a target under `vmap`."""

# Their rules are registered as they are imported.
from hyperloom.torch._rules import attention as attention
from hyperloom.torch._rules import autocast as autocast
from hyperloom.torch._rules import layers as layers
from hyperloom.torch._rules import norms as norms
from hyperloom.torch._rules import recurrent as recurrent
from hyperloom.torch._rules.graphs import functions as functions
from hyperloom.torch._rules.graphs import pooling as pooling
from hyperloom.torch._rules.graphs import scatter as scatter
