"""Lengths, repetition and differences against values worked out by hand or by a slower way."""

import random

import pytest
import sacrebleu

from hf_weight_distill.report import texts


def row(source="a b c", reference="x y z", teacher="x y z", student="x y z"):
    return {"source": source, "reference": reference, "teacher": teacher, "student": student}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two dogs, one ball.", ["Two", "dogs", ",", "one", "ball", "."]),
        ("don't  stop", ["don", "'", "t", "stop"]),
        ("\u4f60\u597d world", ["\u4f60", "\u597d", "world"]),  # ideographs count one by one
        ("\u0939\u093f\u0928\u094d\u0926\u0940", ["\u0939\u093f\u0928\u094d\u0926\u0940"]),  # vowel signs break no word
        (" \n ", []),
    ],
)
def test_words(text, expected):
    assert texts.words(text) == expected


def naive_run(tokens):
    """The most repetitions of any phrase of up to four words, by trying every place."""
    best = 1 if tokens else 0
    for n in range(1, 5):
        for start in range(len(tokens)):
            phrase, times = tokens[start : start + n], 1
            while len(phrase) == n and tokens[start + times * n : start + (times + 1) * n] == phrase:
                times += 1
            best = max(best, times)
    return best


def test_the_longest_run_is_the_naive_one():
    rng = random.Random(3)
    for _ in range(400):
        tokens = [rng.choice("ab") for _ in range(rng.randint(0, 14))]
        times, phrase = texts.longest_run(tokens)
        assert times == naive_run(tokens)
        assert times < 2 or " ".join([phrase] * times) in " ".join(tokens)


def test_repeated_share_by_hand():
    assert texts.repeated_share("a b c d e".split()) == 0
    assert texts.repeated_share("a b a b a b".split(), n=2) == 1 - 2 / 5  # ab ba ab ba ab
    assert texts.repeated_share("a a a a a a".split()) == 1 - 1 / 3
    assert texts.repeated_share(["a"]) == 0


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ("he runs and runs and runs and runs home", (3, "runs and")),
        ("no no no", (3, "no")),
        ("no no", None),
        ("we go to the sea , we go to the sea and we go to the sea", (3, "we go to the")),
        ("we go to the sea and we go to the sea", None),  # twice, and the source has a 4-gram once
        ("purpurnenennenennennennennennennenn Kleid", (7, "nen")),
        ("Basssssss", (7, "s")),
        ("hahahahaha", None),  # five times
        ("", None),
    ],
)
def test_a_loop_is_found_and_its_phrase_named(student, expected):
    found = texts.find_loop(7, student, "one two three four five", "some reference")
    assert (found and (found.index, found.times, found.phrase)) == (expected and (7, *expected))


def test_what_source_or_reference_repeat_is_no_loop():
    assert texts.find_loop(0, "ho ho ho", "he laughs", "ho ho ho") is None
    assert texts.find_loop(0, "ho ho ho", "ha ha ha", "er lacht") is None
    assert texts.find_loop(0, "ho ho ho ho", "ha ha ha", "er lacht").times == 4
    assert texts.find_loop(0, "1000000 Euro", "one million", "1000000 Euro") is None


def test_statistics_of_a_side_by_hand():
    rows = [row(student="x y"), row(student=""), row(student="no no no no no no no"), row()]
    found = texts.text_statistics(rows, "student")
    assert (found.words, found.ratio, found.empty) == (12 / 4, 12 / 12, 0.25)
    assert found.repeated == pytest.approx((1 - 1 / 4) / 4)
    assert [(loop.index, loop.times) for loop in found.loops] == [(2, 7)] and found.looping == 0.25
    assert texts.text_statistics([row(reference="")], "student").ratio is None
    assert texts.length_ratios(rows) == [2 / 3, 0, 7 / 3, 1] and texts.length_ratios([row(teacher="")]) == []


@pytest.mark.parametrize(("student", "teacher", "named"), [(2, 1, True), (2, 2, False), (1, 0, True), (0, 0, False)])
def test_a_student_is_named_from_one_in_a_hundred_and_above_its_teacher(student, teacher, named):
    def side(loops, sentences=100):
        return texts.TextStatistics(1, 1, 0, 0, (texts.Loop(0, 3, "a"),) * loops, sentences)

    assert texts.repeats_itself(side(student), side(teacher)) is named
    assert not texts.repeats_itself(side(9, 1000), side(0, 1000)), "nine in a thousand are less than one in a hundred"


def test_differences_mark_what_the_other_side_lacks():
    left, right = texts.differences("The old dog runs home.", "The dog walks  home!")
    assert left == [("The", False), (" ", False), ("old", True), (" ", False), ("dog", False)] + [
        *((" ", False), ("runs", True), (" ", False), ("home", False), (".", True))
    ]
    assert [text for text, marked in right if marked] == ["walks", "!"]
    assert texts.differences("", "a") == ([], [("a", True)])


def test_differences_keep_every_word_of_any_two_texts():
    rng = random.Random(5)
    for _ in range(200):
        pair = [" ".join(rng.choice(["a", "b,", "c.", "(d)"]) for _ in range(rng.randint(0, 9))) for _ in "ab"]
        found = texts.differences(*pair)
        assert ["".join(text for text, _ in side) for side in found] == pair
        common = [[word for text, marked in side if not marked for word in texts.words(text)] for side in found]
        assert common[0] == common[1]


def test_sentences_are_scored_by_sacrebleu_and_the_worst_come_first():
    rows = [row(reference="der Hund", teacher="der Hund", student=s) for s in ("der Hund", "Katze", "der Hun", "")]
    found = texts.scored(rows)
    assert [s.student_chrf for s in found] == [sacrebleu.sentence_chrf(r["student"], ["der Hund"]).score for r in rows]
    assert all(s.teacher_chrf == 100 for s in found)
    worst = texts.worst(found, 2)
    assert [s.difference for s in worst] == sorted(s.difference for s in found)[:2]
    assert 0 not in [s.index for s in texts.worst(found, 9)], "a sentence without loss is not among the worst"


def test_the_sample_is_the_same_every_time_and_in_order():
    sentences = texts.scored([row(student=str(n)) for n in range(50)])
    indices = [s.index for s in texts.sample(sentences, 10)]
    assert indices == [s.index for s in texts.sample(sentences, 10)] == sorted(set(indices)) and len(indices) == 10
    assert len(texts.sample(sentences[:3], 10)) == 3
