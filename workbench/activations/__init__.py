"""Reading and changing what happens inside a model, by TransformerLens's names.

`HookedLM(model)` gives names to the activations of any Hugging Face causal LM; `record` reads them,
`intervene` changes them, `gradient_checkpointing` keeps both right while blocks are recomputed.
"""

from workbench.activations.contexts import Activations, Edit, Select
from workbench.activations.hooked import HookedLM
from workbench.activations.sharded import reshard
from workbench.activations.wiring import evaluating

__all__ = ["Activations", "Edit", "HookedLM", "Select", "evaluating", "reshard"]
