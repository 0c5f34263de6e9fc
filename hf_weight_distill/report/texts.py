"""What can be said about outputs without a model: lengths, repetition, differences, scores of single sentences."""

import difflib
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sacrebleu

from ..words import spaced_words, words

LONGEST_PHRASE = 4  # words, or letters of a word
TIMES_IN_A_ROW = 3  # words
LETTERS_IN_A_ROW = 6
TIMES_MORE = 2
SHARE_THAT_NAMES = 0.01

Outputs = Sequence[dict[str, str]]  # rows of source, reference, teacher, student


# --- repetition ------------------------------------------------------------------------------------------------------


def repeated_share(tokens: Sequence[str], n: int = 4) -> float:
    """``seq-rep-n`` of Welleck et al. 2020 (arXiv 1908.04319): 1 - distinct n-grams / n-grams, 0 for a short text."""
    grams = _grams(tokens, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def longest_run(tokens: Sequence[str], longest: int = LONGEST_PHRASE, between: str = " ") -> tuple[int, str]:
    """How often a phrase of at most ``longest`` tokens stands in a row, at most, and the phrase.

    Args:
        tokens: words, or the letters of one.
        longest: tokens.
        between: what joins the phrase.
    """
    best = (1 if tokens else 0, "")
    for n in range(1, longest + 1):
        equal = 0  # so many words in a row are those n words before
        for index in range(n, len(tokens)):
            equal = equal + 1 if tokens[index] == tokens[index - n] else 0
            if equal // n + 1 > best[0]:
                start = index - equal - n + 1
                best = (equal // n + 1, between.join(tokens[start : start + n]))
    return best


def longest_stutter(tokens: Sequence[str]) -> tuple[int, str]:
    """The longest run of letters within a word, and the letters: a loop of word pieces."""
    return max((longest_run(word, between="") for word in tokens), default=(0, ""))


def top_count(tokens: Sequence[str], n: int = LONGEST_PHRASE) -> tuple[int, str]:
    """How often the most frequent n-gram occurs, and the n-gram."""
    counts = Counter(_grams(tokens, n)).most_common(1)
    return (counts[0][1], " ".join(counts[0][0])) if counts else (0, "")


@dataclass(frozen=True)
class Loop:
    """The output ``index`` repeats ``phrase`` so many ``times``."""

    index: int
    times: int
    phrase: str


def find_loop(index: int, output: str, source: str, reference: str) -> Loop | None:
    """The loop of an output, if it is more than its source and its reference explain.

    A phrase of at most 4 words stands at least 3 times in a row; or at most 4 letters stand at least 6 times in a row
    in a word; or a 4-gram occurs at least twice more often than any does in source and reference, after the top n-gram
    count by which oscillatory hallucinations are found (Raunak et al. 2021, arXiv 2104.06683; Guerreiro et al. 2023,
    arXiv 2208.05309).
    """
    found, others = words(output), (words(source), words(reference))
    for measure, least, more in (
        (longest_run, TIMES_IN_A_ROW, 1),
        (longest_stutter, LETTERS_IN_A_ROW, 1),
        (top_count, TIMES_MORE, TIMES_MORE),
    ):
        times, phrase = measure(found)
        if times >= max(least, more + max(measure(other)[0] for other in others)):
            return Loop(index, times, phrase)
    return None


def _grams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


# --- lengths and repetition of all outputs ---------------------------------------------------------------------------


@dataclass(frozen=True)
class TextStatistics:
    """Lengths and repetition of one side's outputs.

    Args:
        words: mean number of words.
        ratio: words divided by those of the references.
        empty: share of outputs without a word.
        repeated: mean share of repeated 4-grams.
        loops: the outputs that loop.
        sentences: number of outputs.
    """

    words: float
    ratio: float | None
    empty: float
    repeated: float
    loops: tuple[Loop, ...]
    sentences: int

    @property
    def looping(self) -> float:
        """Share of outputs that loop."""
        return len(self.loops) / self.sentences


def text_statistics(rows: Outputs, side: str) -> TextStatistics:
    """Statistics of one column.

    Args:
        rows: at least one.
        side: ``"reference"``, ``"teacher"`` or ``"student"``.
    """
    tokens = [words(row[side]) for row in rows]
    total, wanted = sum(map(len, tokens)), sum(len(words(row["reference"])) for row in rows)
    found = (find_loop(index, row[side], row["source"], row["reference"]) for index, row in enumerate(rows))
    return TextStatistics(
        words=total / len(rows),
        ratio=total / wanted if wanted else None,
        empty=sum(not row for row in tokens) / len(rows),
        repeated=statistics.fmean(repeated_share(row) for row in tokens),
        loops=tuple(loop for loop in found if loop is not None),
        sentences=len(rows),
    )


def repeats_itself(student: TextStatistics, teacher: TextStatistics) -> bool:
    """Whether a student is named: at least one output in a hundred loops, and more of them than of the teacher's."""
    return student.looping >= SHARE_THAT_NAMES and student.looping > teacher.looping


def length_ratios(rows: Outputs) -> list[float]:
    """Words of the student's output divided by the teacher's, where the teacher wrote any."""
    pairs = [(len(words(row["student"])), len(words(row["teacher"]))) for row in rows]
    return [student / teacher for student, teacher in pairs if teacher]


# --- single sentences ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sentence:
    """One test sentence with the chrF of both outputs against the reference, 0 to 100."""

    index: int
    row: dict[str, str]
    teacher_chrf: float
    student_chrf: float

    @property
    def difference(self) -> float:
        """Student minus teacher."""
        return self.student_chrf - self.teacher_chrf


def scored(rows: Outputs) -> list[Sentence]:
    """Each sentence with sacreBLEU's sentence chrF of teacher and student."""
    chrf = sacrebleu.CHRF()
    return [
        Sentence(
            index,
            row,
            chrf.sentence_score(row["teacher"], [row["reference"]]).score,
            chrf.sentence_score(row["student"], [row["reference"]]).score,
        )
        for index, row in enumerate(rows)
    ]


def worst(sentences: Sequence[Sentence], count: int) -> list[Sentence]:
    """Where the student loses most against the teacher, the worst first."""
    return sorted((s for s in sentences if s.difference < 0), key=lambda s: (s.difference, s.index))[:count]


def sample(sentences: Sequence[Sentence], count: int, seed: int = 0) -> list[Sentence]:
    """A random sample, the same for the same test set, in its order."""
    chosen = random.Random(seed).sample(range(len(sentences)), min(count, len(sentences)))
    return [sentences[index] for index in sorted(chosen)]


def differences(left: str, right: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Both texts in segments, each marked or not: marked are the words that the other text does not have there.

    Joined, the segments are the text with its white space made single spaces.
    """
    sides = spaced_words(left), spaced_words(right)
    tokens = [[word for word, _ in side] for side in sides]
    found: tuple[list[Any], list[Any]] = ([], [])
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, *tokens, autojunk=False).get_opcodes():
        for segments, side, first, last in ((found[0], sides[0], i1, i2), (found[1], sides[1], j1, j2)):
            if first < last:
                segments += _segment(side[first:last], tag != "equal", bool(segments))
    return found


def _segment(side: list[tuple[str, bool]], marked: bool, inside: bool) -> list[tuple[str, bool]]:
    """Words joined; a space before the first stays outside the mark."""
    text = "".join(f" {word}" if space else word for word, space in side)
    space = [(" ", False)] if inside and text.startswith(" ") else []
    return [*space, (text.lstrip(" "), marked)]
