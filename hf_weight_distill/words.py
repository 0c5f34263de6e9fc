"""Words of a text in any script, without a model or a dictionary."""

import re
import unicodedata

# Scripts that are written without spaces: Thai, Lao, Myanmar, Khmer, kana, CJK ideographs.
_NO_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def words(text: str) -> list[str]:
    """Words and punctuation marks; in a script without spaces every letter is a word.

    Example:
        >>> words("Größer, nicht?")
        ['Größer', ',', 'nicht', '?']
    """
    return [word for word, _ in spaced_words(text)]


def spaced_words(text: str) -> list[tuple[str, bool]]:
    """Words, and whether a space stands before each."""
    found: list[tuple[str, bool]] = []
    for chunk in text.split():
        alone = "".join(f" {c} " if _stands_alone(c) else c for c in chunk).split()
        found += [(word, index == 0) for index, word in enumerate(alone)]
    return found


def _stands_alone(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS" or bool(_NO_SPACES.match(character))
