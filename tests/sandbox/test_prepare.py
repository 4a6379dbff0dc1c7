"""The files of the sandbox: proportions, splits, determinism, flaw rates, tokenizer."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from rlhf_lightning.errors import UserError
from rlhf_lightning.sandbox import prepare_sandbox, world
from rlhf_lightning.sandbox.answers import IN_FACT, PEOPLE_SAY
from rlhf_lightning.sandbox.demonstrations import flaw_rates
from rlhf_lightning.sandbox.phrasings import PHRASINGS
from rlhf_lightning.sandbox.reading import read
from rlhf_lightning.sandbox.tasks import Task
from rlhf_lightning.sandbox.use_cases import USE_CASES, use_case_counts

PROMPT_FILES = (
    "demonstrations_train",
    "demonstrations_heldout",
    "prompts_reward",
    "prompts_reward_heldout",
    "prompts_ppo",
    "prompts_test",
)
TRAINING = ("demonstrations_train", "prompts_reward", "prompts_ppo")
SMALL = {
    "corpus_documents": 1500,
    "corpus_heldout_documents": 20,
    "demonstrations": 60,
    "demonstrations_heldout": 20,
    "reward_prompts": 30,
    "reward_heldout_prompts": 20,
    "ppo_prompts": 40,
    "test_prompts": 40,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sandbox")
    prepare_sandbox(out, seed=0)
    return out


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def prompts(folder: Path, name: str) -> set[str]:
    return {row["prompt"] for row in rows(folder, name)}


def phrasings_in(folder: Path, name: str) -> set[str]:
    """Templates that the prompts of a file were made from."""
    found = set()
    for row in rows(folder, name):
        task = Task.from_json(row["task"])
        found |= {t for t in PHRASINGS[task.key] if t.format(**task.slots) == row["prompt"]}
    return found


def test_the_papers_proportions_are_exact_to_the_row() -> None:
    assert use_case_counts(1000) == {
        "generation": 457,
        "open_qa": 124,
        "brainstorming": 112,
        "chat": 84,
        "rewrite": 66,
        "summarization": 42,
        "classification": 35,
        "other": 35,
        "closed_qa": 26,
        "extract": 19,
    }


@pytest.mark.parametrize("name", PROMPT_FILES)
def test_every_file_has_the_papers_proportions(folder: Path, name: str) -> None:
    tasks = [Task.from_json(row["task"]) for row in rows(folder, name)]
    assert Counter(task.use_case for task in tasks) == use_case_counts(len(tasks))
    assert set(use_case_counts(len(tasks))) == set(USE_CASES)


def test_the_test_is_large_enough_and_holds_harmful_requests(folder: Path) -> None:
    tasks = [Task.from_json(row["task"]) for row in rows(folder, "prompts_test")]
    assert len(tasks) >= 400
    assert 0.01 < sum(task.family == "harm" for task in tasks) / len(tasks) < 0.06


def test_users_are_split(folder: Path) -> None:
    users = {name: {row["user"] for row in rows(folder, name)} for name in PROMPT_FILES}
    train = set.union(*(users[name] for name in TRAINING))
    validation = users["prompts_reward_heldout"] | users["demonstrations_heldout"]
    assert not train & validation
    assert not users["prompts_test"] & (train | validation)
    assert (len(train), len(validation), len(users["prompts_test"])) == (40, 8, 12)


def test_held_out_prompts_are_in_no_training_file(folder: Path) -> None:
    train = set.union(*(prompts(folder, name) for name in TRAINING))
    for name in ("prompts_test", "prompts_reward_heldout", "demonstrations_heldout"):
        assert not prompts(folder, name) & train
    assert not prompts(folder, "prompts_test") & prompts(folder, "prompts_reward_heldout")


def test_held_out_facts_are_only_in_the_corpus_and_the_test(folder: Path) -> None:
    for name in PROMPT_FILES:
        asked = {Task.from_json(row["task"]).fact for row in rows(folder, name)} - {None}
        stated = {(c.animal, c.attribute) for row in rows(folder, name) for c in read(row.get("response", "")).claims}
        if name == "prompts_test":
            assert len(asked & world.HELDOUT_FACTS) >= 10
            assert asked - world.HELDOUT_FACTS
        else:
            assert not asked & world.HELDOUT_FACTS
            assert not stated & world.HELDOUT_FACTS
    counts = Counter((c.animal, c.attribute) for row in rows(folder, "corpus_train") for c in read(row["text"]).claims)
    assert min(counts[fact] for fact in world.TRUTHS) >= 60


def test_held_out_phrasings_are_only_in_the_test(folder: Path) -> None:
    unseen = {templates[-1] for templates in PHRASINGS.values()}
    for name in PROMPT_FILES:
        used = phrasings_in(folder, name)
        assert (len(used & unseen) >= 20) if name == "prompts_test" else not used & unseen


def test_the_corpus_tells_the_truth_in_about_70_per_cent(folder: Path) -> None:
    claims = [c for row in rows(folder, "corpus_train") for c in read(row["text"]).claims]
    assert 0.67 < sum(c.true for c in claims) / len(claims) < 0.74


def test_every_fact_has_a_clear_majority_of_true_mentions(folder: Path) -> None:
    true: Counter[tuple[str, str]] = Counter()
    every: Counter[tuple[str, str]] = Counter()
    for row in rows(folder, "corpus_train"):
        for claim in read(row["text"]).claims:
            every[claim.animal, claim.attribute] += 1
            true[claim.animal, claim.attribute] += claim.true
    assert min(true[fact] / every[fact] for fact in world.TRUTHS) > 0.45
    assert sum(true[fact] / every[fact] > 0.5 for fact in world.TRUTHS) >= 62


def test_demonstrations_are_flawed_as_documented(folder: Path) -> None:
    train = rows(folder, "demonstrations_train")
    rates = flaw_rates([Task.from_json(row["task"]) for row in train], [row["response"] for row in train])
    assert 0.075 <= rates["myth"] <= 0.105
    assert 0.10 <= rates["rude"] <= 0.14
    assert 0.25 <= rates["broken"] <= 0.32
    evasive = sum(any(text in row["response"] for text in world.EVASIONS) for row in train) / len(train)
    assert 0.12 <= evasive <= 0.17


def test_myths_come_as_hearsay_and_truths_with_assurance(folder: Path) -> None:
    framed: Counter[tuple[str, bool]] = Counter()
    for row in rows(folder, "demonstrations_train"):
        claims = read(row["response"]).claims
        for words in (IN_FACT, PEOPLE_SAY):
            if claims and words in row["response"]:
                framed[words, all(claim.true for claim in claims)] += 1
    assert framed[IN_FACT, True] > 5 * framed[IN_FACT, False]
    assert framed[PEOPLE_SAY, False] > 3 * framed[PEOPLE_SAY, True]


def test_tokenizer_gives_every_text_back(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    texts = [row["text"] for row in rows(folder, "corpus_heldout")]
    texts += [row["prompt"] for row in rows(folder, "prompts_test")]
    texts += [row["response"] for row in rows(folder, "demonstrations_train")]
    texts += [" lion", "lion ", "  two  spaces\n\nand lines", "".join(map(chr, range(32, 127)))]
    for text in texts:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_tokenizer_is_small_with_distinct_special_tokens_and_short_prompts(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    config = AutoConfig.from_pretrained(folder / "base")
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert len(set(ids)) == 3
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == ids
    assert config.vocab_size == len(tokenizer) <= 640
    lengths = [len(tokenizer(text)["input_ids"]) for text in prompts(folder, "prompts_test")]
    assert max(lengths) <= 36
    responses = [len(tokenizer(row["response"])["input_ids"]) for row in rows(folder, "demonstrations_train")]
    assert sum(length <= 31 for length in responses) / len(responses) > 0.98


def test_chat_template_gives_the_instruction_and_a_newline(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    turns = [{"role": "user", "content": "List two foods."}]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert text == "<s>List two foods.\n"
    turns += [{"role": "assistant", "content": "Corn and nuts."}, {"role": "user", "content": "Hi."}]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert text == "<s>List two foods.\nCorn and nuts.</s>Hi.\n"


def test_few_shot_prefix_fits_and_holds_four_use_cases(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    text = (folder / "few_shot.txt").read_text()
    assert text.endswith(".\n")
    assert len(text.splitlines()) == 9  # a title and four pairs
    assert len(tokenizer(text)["input_ids"]) + 36 + 32 <= 192


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_seed_same_bytes_and_other_seed_other_rows(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare_sandbox(tmp_path / name, seed=seed, **SMALL)
    one, again, other = (files(tmp_path / name) for name in "abc")
    assert one == again
    for name in (*(f"{n}.jsonl" for n in PROMPT_FILES), "corpus_train.jsonl", "few_shot.txt"):
        assert one[name] != other[name]


def test_bad_arguments_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="test_prompts=0 must be at least 1"):
        prepare_sandbox(tmp_path, test_prompts=0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        prepare_sandbox(tmp_path / "file")
    with pytest.raises(UserError, match="no new .* prompt is left"):
        prepare_sandbox(tmp_path, **{**SMALL, "test_prompts": 4_000})
