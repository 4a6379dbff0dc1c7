"""Metrics on hand-made cases; every expected value is worked out by hand from the definition."""

from __future__ import annotations

import math
import sys

import pytest

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.metrics import (
    alternatives,
    best,
    choice_entropy,
    choice_probabilities,
    corpus_bleu,
    correlation,
    drop_exact,
    drop_f1,
    likeliest,
    rouge,
    squad_exact,
    squad_f1,
    toxicity,
    truthfulness,
)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("The North Sea.", "north sea", 1.0),
        ("the cold North Sea", "North Sea", 0.8),  # precision 2/3, recall 1
        ("sea sea", "sea", 2 / 3),  # multisets: the second "sea" is wrong
        ("North-Sea", "North Sea", 0.0),  # a hyphen is removed and joins
        ("", "", 1.0),
        ("the", "", 1.0),  # both empty in normal form
        ("sea", "", 0.0),
    ],
)
def test_squad_f1(answer: str, reference: str, expected: float) -> None:
    assert squad_f1(answer, reference) == pytest.approx(expected)


def test_squad_exact_ignores_articles_case_and_punctuation() -> None:
    assert squad_exact("It's Scotland's oil", '"its scotlands Oil"') == 1.0
    assert squad_exact("The oil", "oils") == 0.0


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("sea sea", "sea", 1.0),  # sets
        ("North-Sea", "North Sea", 1.0),  # a hyphen separates
        ("56 yards", "56-yard", 0.5),  # {56.0, yards} and {56.0, yard}
        ("57 yards", "56-yard", 0.0),  # the number is wrong
        ("yards", "56-yard", 0.0),
        ("7761.0", "7761", 1.0),  # compared by value
        ("$41,809", "41,809", 1.0),  # no numbers to Python, words without punctuation; then equal
        ("one two three", "one two four", 0.67),  # 2/3, rounded
        ("cat", "dog", 0.0),
    ],
)
def test_drop_f1(answer: str, reference: str, expected: float) -> None:
    assert drop_f1(answer, reference) == pytest.approx(expected, abs=1e-12)


def test_drop_exact_compares_normal_forms() -> None:
    assert drop_exact("the 5 cats", "5.0 Cats!") == 1.0
    assert drop_exact("cats 5", "5 cats") == 0.0


def test_the_best_reference_counts() -> None:
    assert alternatives("56|56-yard| ") == ["56", "56-yard"]
    assert alternatives("") == [""]
    assert best(squad_f1, "quadruple engines", alternatives("quadruple|quadruple expansion engines")) == 0.8
    with pytest.raises(ValueError, match="at least one"):
        best(squad_f1, "a", [])


def test_corpus_bleu_pools_counts() -> None:
    pytest.importorskip("sacrebleu")
    # Together: precisions 9/10, 6/8, 4/6, 2/4, equal lengths.
    answers, references = ["a b c d e", "f g h i j"], ["a b c d x", "f g h i j"]
    found = corpus_bleu(answers, references, resamples=50)
    # 1-grams 4 + 5 of 10, 2-grams 3 + 4 of 8, 3-grams 2 + 3 of 6, 4-grams 1 + 2 of 4.
    assert found.score == pytest.approx(100 * (0.9 * 7 / 8 * 5 / 6 * 3 / 4) ** 0.25)
    assert found.low < found.score < found.high == pytest.approx(100.0)
    with pytest.raises(ValueError, match="one reference"):
        corpus_bleu(["a"], [])


def test_bleu_is_computed_without_a_warning_of_every_sentence(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("sacrebleu")
    corpus_bleu(["a b", "c d"], ["a b", "c e"], resamples=5)
    assert not caplog.records


def test_rouge_counts_units_of_one_reference() -> None:
    pytest.importorskip("rouge_score")
    found = rouge(["cats like dogs"], ["dogs like|cats"])
    assert found["rouge1"] == [1.0]
    assert found["rouge2"] == [0.0]
    assert found["rougeL"] == [pytest.approx(1 / 3)]  # the longest common subsequence is one word
    assert rouge(["cat liked"], ["cats like"], kinds=["rouge1"], stem=True) == {"rouge1": [1.0]}
    assert rouge(["cat liked"], ["cats like"], kinds=["rouge1"]) == {"rouge1": [0.0]}


def test_g10_entropy_in_bits() -> None:
    assert choice_entropy([-3.0, -3.0]) == pytest.approx(1.0)
    assert choice_entropy([0.0, -math.log(3)]) == pytest.approx(0.8113, abs=5e-5)  # of (3/4, 1/4)
    assert choice_entropy([-1e4, -1e4]) == pytest.approx(1.0)
    assert math.copysign(1.0, choice_entropy([-1e4, -2e4])) == 1.0  # 0, and not -0
    assert choice_entropy([-1e4, -2e4]) == 0.0
    assert choice_probabilities([-1e4, -1e4 - math.log(3)]) == pytest.approx([0.75, 0.25])
    assert choice_entropy([math.log(0.5), math.log(0.25), math.log(0.25)]) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="numbers"):
        choice_entropy([math.nan, 0.0])
    for infinite in ([-math.inf, -math.inf], [math.inf, 0.0]):
        with pytest.raises(ValueError, match="known and not 0"):
            choice_entropy(infinite)


def test_the_highest_mean_wins_not_the_highest_total() -> None:
    assert likeliest([-4.0, -3.0], [4, 2]) == 0  # means −1 and −1.5
    assert likeliest([-2.0, -2.0], [1, 1]) == 0
    with pytest.raises(ValueError, match="no tokens"):
        likeliest([-1.0], [0])


def test_truthfulness_counts_both_from_one_half() -> None:
    found = truthfulness([0.5, 0.9, 0.1, 0.7], [0.5, 0.2, 0.9, 0.8])
    assert found == {"true": [1, 1, 0, 1], "info": [1, 0, 1, 1], "true_and_info": [1, 0, 0, 1]}
    with pytest.raises(ValueError, match="2 answers"):
        truthfulness([0.5, 0.5], [0.5])


def test_toxicity_of_one_and_of_several_samples() -> None:
    assert toxicity([[0.5], [0.2]]) == {"toxicity": [0.5, 0.2], "toxic": [1.0, 0.0]}
    several = toxicity([[0.1, 0.6, 0.2], [0.1, 0.3, 0.2]])
    assert several["toxicity"] == pytest.approx([0.3, 0.2])
    assert several["max_toxicity"] == [0.6, 0.3]
    assert several["toxic"] == [1.0, 0.0]
    with pytest.raises(ValueError, match="at least one"):
        toxicity([[]])


def test_an_exchanged_mapping_does_not_correlate() -> None:
    """The trap of Table 14 in small: with two rows exchanged the correlation falls from 1 to that of a wrong table."""
    ours = {
        ("qa", "a"): 0.2,
        ("qa", "b"): 0.3,
        ("in", "a"): 0.9,
        ("in", "b"): 0.8,
        ("both", "a"): 0.4,
        ("both", "b"): 0.5,
    }
    exchanged = {"qa": "qa", "in": "both", "both": "in"}
    printed = {(prompt, model): ours[exchanged[prompt], model] for prompt, model in ours}
    restored = {(prompt, model): printed[exchanged[prompt], model] for prompt, model in printed}
    assert correlation(ours, restored) == pytest.approx(1.0)
    assert correlation(ours, printed) < 0.85


def test_correlation_needs_the_same_cells_and_some_spread() -> None:
    assert correlation({1: 1.0, 2: 2.0, 3: 3.0}, {1: 5.0, 2: 3.0, 3: 1.0}) == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="differ in 1 cells"):
        correlation({1: 1.0}, {})
    with pytest.raises(ValueError, match="values that differ"):
        correlation({1: 1.0, 2: 1.0, 3: 1.0}, {1: 1.0, 2: 2.0, 3: 3.0})


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match=r"rlhf-lightning\[eval\]"):
        corpus_bleu(["a"], ["a"])
