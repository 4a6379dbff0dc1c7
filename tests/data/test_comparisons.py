from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lightning.data import ComparisonDataModule, Encoder, write_rows
from rlhf_lightning.errors import UserError

RANKED = {"prompt": "a", "responses": ["b", "c c", "d"], "ranks": [2, 1, 2], "finished": [True, False, True]}
TIED = {"prompt": "a", "responses": ["b", "c", "d"], "ranks": [1, 1, 1]}


def test_batch_holds_completions_once_with_eos_where_finished(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write("a.jsonl", RANKED, {"prompt": "e f", "chosen": "g", "rejected": "h"})
    (batch,) = ComparisonDataModule(encoder=encoder, train=path, validation=path).val_dataloader()
    assert batch.input_ids.tolist() == [
        [1, 6, 7, 2, 0],
        [1, 6, 8, 8, 0],
        [1, 6, 9, 2, 0],
        [1, 10, 11, 12, 2],
        [1, 10, 11, 13, 2],
    ]
    assert batch.lengths.tolist() == [4, 4, 4, 5, 5]
    assert batch.group.tolist() == [0, 0, 0, 1, 1]
    assert list(zip(batch.better.tolist(), batch.worse.tolist(), strict=True)) == [(1, 0), (1, 2), (3, 4)]
    assert batch.pair_group.tolist() == [0, 0, 1]


def test_tied_rows_are_skipped_with_a_count(
    write: Callable[..., Path], encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    data = ComparisonDataModule(encoder=encoder, train=write("a.jsonl", TIED, RANKED, TIED, RANKED))
    with caplog.at_level(logging.INFO):
        data.prepare_data()
        data.setup("fit")
    expected = {"rows": 2, "pairs": 4, "tied_rows_skipped": 2, "tied_pairs": 8, "overlong_rows_dropped": 0}
    assert data.counts == expected
    assert caplog.text.count("tied_rows_skipped 2") == 1
    (batch,) = data.train_dataloader()
    assert batch.group.tolist() == [0, 0, 0, 1, 1, 1]


def test_counts_are_the_same_from_the_cache(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write("a.jsonl", TIED, RANKED)
    first, second = (ComparisonDataModule(encoder=encoder, train=path) for _ in range(2))
    first.setup()
    second.setup()
    assert first.counts == second.counts
    assert second.counts["tied_rows_skipped"] == 1


def test_file_of_ties_beside_a_good_one(write: Callable[..., Path], encoder: Encoder) -> None:
    data = ComparisonDataModule(encoder=encoder, train=[write("a.jsonl", TIED), write("b.jsonl", RANKED)])
    data.setup()
    assert data.counts["rows"] == data.counts["tied_rows_skipped"] == 1


def test_nothing_but_ties_is_an_error(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write("a.jsonl", TIED, TIED)
    with pytest.raises(UserError, match=r"a\.jsonl: all completions are tied in all 2 rows") as error:
        ComparisonDataModule(encoder=encoder, train=path).prepare_data()
    assert "\n" not in str(error.value)


def test_bad_row_is_named_by_file_and_number(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write("a.jsonl", RANKED, {"prompt": "a", "responses": ["b"], "ranks": [1]})
    with pytest.raises(UserError) as error:
        ComparisonDataModule(encoder=encoder, train=path).prepare_data()
    assert str(error.value).startswith(f"{path}, line 2: K = 1 ")


def test_limit_counts_the_longest_completion(write: Callable[..., Path], encoder: Encoder) -> None:
    long = {"prompt": "a", "responses": ["b", "c d e"], "ranks": [1, 2]}  # 1 + 1 + 3 + EOS = 6
    path = write("a.jsonl", RANKED, long)
    with pytest.raises(UserError, match=r"line 2: .*length 6 and the limit is 5"):
        ComparisonDataModule(encoder=encoder, train=path, max_length=5).setup()
    data = ComparisonDataModule(encoder=encoder, train=path, max_length=5, overlong="drop")
    data.setup()
    assert (data.counts["rows"], data.counts["overlong_rows_dropped"]) == (1, 1)


def test_demonstrations_for_the_bias_come_in_order(write: Callable[..., Path], letters: Path, encoder: Encoder) -> None:
    path = write("a.jsonl", RANKED)
    data = ComparisonDataModule(encoder=encoder, train=path, demonstrations=letters, batch_size=6)
    loader = data.demonstration_dataloader()
    assert loader is not None
    assert [batch.input_ids[:, 1].tolist() for batch in loader] == [[6, 7, 8, 9, 10, 11], [12, 13, 14, 15]]
    assert ComparisonDataModule(encoder=encoder, train=path).demonstration_dataloader() is None


@pytest.mark.shared_data
def test_real_solutions_with_ties(shared: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(shared / "models" / "stories260k")
    lines = (shared / "data/pref/gsm8k_example_model_solutions.jsonl").read_text().splitlines()[:300]
    rows, pairs, skipped = [], 0, 0
    for line in lines:
        row = json.loads(line)
        solutions = [entry for entry in row.values() if isinstance(entry, dict)]
        right = [entry["is_correct"] for entry in solutions]
        pairs += sum(right) * (len(right) - sum(right))
        skipped += all(right) or not any(right)
        rows.append(
            {
                "prompt": row["question"],
                "responses": [entry["solution"] for entry in solutions],
                "ranks": [1 if correct else 2 for correct in right],
            }
        )
    write_rows(tmp_path / "a.jsonl", rows)
    data = ComparisonDataModule(encoder=encoder, train=tmp_path / "a.jsonl")
    data.setup()
    assert data.counts["pairs"] == pairs
    assert data.counts["tied_rows_skipped"] == skipped
    assert data.counts["tied_pairs"] == 6 * 300 - pairs
    assert data.counts["rows"] == 300 - skipped


@pytest.mark.shared_data
def test_real_pairs_of_dialogues(shared: Path, tmp_path: Path) -> None:
    import gzip

    encoder = Encoder.from_pretrained(shared / "models" / "stories260k")
    rows = []
    with gzip.open(shared / "data/pref/hh_harmless_base_test.jsonl.gz", "rt") as file:
        for line in list(file)[:200]:
            row = json.loads(line)
            (prompt, chosen), (other, rejected) = (row[k].rsplit("\n\nAssistant:", 1) for k in ("chosen", "rejected"))
            if prompt == other and chosen.strip() and rejected.strip():  # one answer there is empty: a bad row
                rows.append({"prompt": f"{prompt}\n\nAssistant:", "chosen": chosen, "rejected": rejected})
    write_rows(tmp_path / "a.jsonl", rows)
    data = ComparisonDataModule(encoder=encoder, train=tmp_path / "a.jsonl", batch_size=len(rows))
    (batch,) = data.train_dataloader()
    assert len(batch.better) == len(rows)
    assert len(batch.lengths) == 2 * len(rows)
