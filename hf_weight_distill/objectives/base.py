"""What an objective is."""

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn
from transformers.modeling_outputs import Seq2SeqLMOutput

from ..top_k import TopKDistribution

if TYPE_CHECKING:
    from ..plan import WeightPlan

IGNORED = -100


class Objective(nn.Module):
    """A loss between outputs; it never sees a model.

    ``forward`` returns the *sum* over label tokens; the trainer divides by the number of label tokens in the whole
    batch, over all accumulation steps and processes, so that 1 x 8 and 2 x 4 sentences give one gradient. The keyword
    arguments of the constructor are its options: what a configuration sets.

    Class attributes:
        name, paper: for the model card.
        needs: ``"teacher"`` (a live teacher's outputs), ``"hidden_states"``, ``"attentions"`` (of both), ``"exposed"``
            (what the weight source exposes, see ``WeightSource.exposed``; it stands in ``student.exposed``). The
            source's padding mask is always there, as ``student["encoder_mask"]``.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()

    def check_plan(self, plan: "WeightPlan", source: str | None) -> None:
        """Whether the objective can be had of this student and its teacher; asked before anything is computed.

        Args:
            plan: what feeds what.
            source: name of the phase's weight source; ``None`` where a plain student trains.

        Raises:
            ValueError: it cannot.
        """

    def check_cache(self, temperature: float) -> None:
        """Whether a teacher cache will do in place of a live teacher; asked before training with one.

        An objective for which it does gets a ``TopKDistribution`` as ``teacher``.

        Args:
            temperature: of the cached distribution.

        Raises:
            ValueError: it will not.
        """
        if "teacher" in self.needs:
            states = " and ".join(sorted(self.needs & {"hidden_states", "attentions"})) or "outputs"
            raise ValueError(
                f"the objective {self.name} needs the teacher's {states}, and a teacher cache holds no more than its "
                "likeliest next tokens: train with the live teacher, or drop the objective"
            )

    def forward(
        self, student: Seq2SeqLMOutput, teacher: Seq2SeqLMOutput | TopKDistribution | None, labels: Tensor
    ) -> Tensor:
        """The loss, summed over labels that are not -100."""
        raise NotImplementedError
