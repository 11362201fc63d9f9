"""Find the clip sites of a network: its activations, and the channel axis of each activation.

`survey` (find.py) performs these steps:

1. flow.py: finds out which values depend on the input, which values the logits depend on, and which values a later
   layer depends on.
2. candidates.py: finds the values that are activations. A single operator such as Relu may be an activation, or several
   elementwise nodes may compute an activation together. expression.py interprets such nodes as a function of one value,
   elementwise.py evaluates this function, and curves.py recognises the function by its curve.
3. quantised.py: adds the values that a QuantizeLinear rectifies in place of a removed Relu.
4. role.py: distinguishes activations from gates and divisors, which scale other values.
5. channels.py: finds the channel axis from the nearest layers. layers.py defines the channel axis of each kind of
   layer, and relation.py follows an axis through the nodes in between.

selection.py then selects sites according to the option `--sites`. activation.py defines the results: `Activation`, and
`ExcludedActivation` with the reason for the exclusion.
"""

from mmguard.exporter.sites.activation import Activation, ExcludedActivation, Exclusion
from mmguard.exporter.sites.find import BOUND_SUFFIX, CLIPPED_SUFFIX, Survey, find_activations, require_sites, survey

__all__ = [
    "BOUND_SUFFIX",
    "CLIPPED_SUFFIX",
    "Activation",
    "ExcludedActivation",
    "Exclusion",
    "Survey",
    "find_activations",
    "require_sites",
    "survey",
]
