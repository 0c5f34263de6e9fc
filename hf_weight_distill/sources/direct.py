"""The start itself as parameters: what every generator has to beat."""

from torch import Tensor, nn

from .base import ClassSpec, WeightSource


class Direct(WeightSource):
    """Trains the start's weights as they are, :math:`W = \\theta`.

    Phase 1 with this source is plain training; it is the control of every comparison.
    """

    name = "direct"
    paper = ""

    def __init__(self, specs: list[ClassSpec]) -> None:
        super().__init__(specs)
        self.weights = nn.ParameterDict({spec.key: nn.Parameter(spec.start.weight.clone()) for spec in specs})

    def weight(self, key: str) -> Tensor:
        """``W_SPQ`` of one class."""
        return self.weights[key]
