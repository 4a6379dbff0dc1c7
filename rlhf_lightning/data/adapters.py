"""Rows of well-known public datasets, reshaped to the forms that the rest of the package recognises.

An adapter is a function over all rows of a source, in order, that yields rows; a source names it by ``adapter``.
"""

from __future__ import annotations

import importlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lightning.data.readers import cache_folder, digest_of, read_table
from rlhf_lightning.data.unreadable import writing_to_cache
from rlhf_lightning.data.writing import write_rows
from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

Row = Mapping[str, Any]
Adapter = Callable[[Iterable[Row]], Iterator[dict[str, Any]]]

_ARTICLE = re.compile(r" = [^=].* = \n?")
_HELPSTEER_TURN = re.compile(r"\n<extra_id_1>(User|Assistant)\n")


def summarize_comparisons(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """OpenAI's summaries compared by people: ``info``, two ``summaries`` and ``choice`` -> comparisons.

    Prompts have the form of the prompts-only TL;DR data; the validation rows on news have an article in place of a
    post.
    """
    for row in rows:
        info = row["info"]
        if info.get("post"):
            head = [f"SUBREDDIT: r/{info['subreddit']}"] if info.get("subreddit") else []
            head += [f"TITLE: {info['title']}"] if info.get("title") else []
            head += [f"POST: {info['post']}"]
        else:
            head = [f"Article:\n{info['article']}"] if info.get("article") else []
        choice = row["choice"]
        summaries = [summary["text"] for summary in row["summaries"]]
        yield {
            "prompt": "\n\n".join([*head, "TL;DR:"]) if head else "",  # nothing to summarise: a bad row
            "chosen": summaries[choice],
            "rejected": summaries[1 - choice],
            "labeler": row.get("worker"),
        }


def helpsteer2(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """HelpSteer2: neighbouring rows of one prompt, each with a response's ratings -> ``responses`` and ``scores``.

    The score is ``helpfulness``, the overall rating. A prompt with a single response compares nothing and is left out.
    A prompt of several turns is one string with marks between the turns, and becomes messages.
    """
    for prompt, group in groupby(rows, key=lambda row: row["prompt"]):
        answers = list(group)
        if len(answers) > 1:
            turns = ["User", *_HELPSTEER_TURN.split(prompt)]  # role, text, role, text, ...
            yield {
                "prompt": [
                    {"role": role.lower(), "content": text} for role, text in zip(turns[::2], turns[1::2], strict=True)
                ],
                "responses": [answer["response"] for answer in answers],
                "scores": [answer["helpfulness"] for answer in answers],
            }


def oasst_demonstrations(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """OpenAssistant's trees: the best-ranked path of every tree, up to its last assistant message -> ``messages``."""
    for root, children in _trees(rows):
        path, message = [root], root
        while children[message["message_id"]]:
            message = min(children[message["message_id"]], key=_rank)
            path.append(message)
        if path[-1]["role"] != "assistant":
            path.pop()
        if path:
            yield {"messages": [_message(entry) for entry in path]}


def oasst_comparisons(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """OpenAssistant's trees: every conversation with two or more ranked replies -> ``responses`` and ``ranks``."""
    for root, children in _trees(rows):
        open_paths = [[root]]
        while open_paths:
            path = open_paths.pop()
            replies = children[path[-1]["message_id"]]
            open_paths += [[*path, reply] for reply in replies]
            ranked = [reply for reply in replies if reply["role"] == "assistant" and reply["rank"] is not None]
            if len(ranked) > 1:
                yield {
                    "prompt": [_message(entry) for entry in path],
                    "responses": [reply["text"] for reply in ranked],
                    "ranks": [reply["rank"] for reply in ranked],
                }


def oasst_prompts(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """OpenAssistant's trees: the first message of every tree -> ``prompt``, with its ``user``."""
    for root, _ in _trees(rows):
        yield {"prompt": root["text"], "user": root.get("user_id")}


def wikitext_articles(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """WikiText's lines, most of them blank -> one ``text`` per article, which begins with its `` = Title = ``."""
    lines: list[str] = []
    for row in rows:
        if _ARTICLE.fullmatch(row["text"]) and "".join(lines).strip():
            yield {"text": "".join(lines).strip("\n")}
            lines = []
        lines.append(row["text"] if row["text"].endswith("\n") else row["text"] + "\n")
    if "".join(lines).strip():
        yield {"text": "".join(lines).strip("\n")}


def adapter_of(name: str) -> Adapter:
    """The adapter of that name here, or the function at ``package.module.function``.

    Errors:
        UserError: there is none.
    """
    module, _, function = name.rpartition(".")
    try:
        found: Adapter = getattr(importlib.import_module(module), function) if module else ADAPTERS[name]
    except (KeyError, ImportError, AttributeError) as error:
        raise UserError(
            f"There is no adapter {name!r}: name one of {', '.join(ADAPTERS)} or your own function as "
            "package.module.function"
        ) from error
    return found


def adapt(rows: Dataset, adapter: str, *, name: str, digest: str) -> tuple[Dataset, str]:
    """The rows that an adapter makes of a source, kept as a table, and the hash of what they depend on.

    Args:
        rows: the source's rows.
        adapter: see ``adapter_of``.
        name: of the source, for errors.
        digest: of the source.

    Errors:
        UserError: rows that do not have the adapter's fields, or of which nothing is left.
    """
    function = adapter_of(adapter)
    kept = cache_folder(digest) / f"{adapter}-{digest_of(Path(function.__code__.co_filename))[:12]}.jsonl"
    if not kept.is_file():
        try:
            with writing_to_cache():
                write_rows(kept, function(rows))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(
                f"{name}: the rows do not have the form that adapter {adapter} reads ({type(error).__name__} {error}); "
                f"the fields are {', '.join(rows.column_names)}: choose another adapter or none"
            ) from error
    if kept.stat().st_size == 0:
        raise UserError(f"{name}: adapter {adapter} makes no row of its {len(rows)} rows: choose another adapter")
    adapted = digest_of(kept)
    return read_table(kept, "json", {}, adapted), adapted


def _trees(rows: Iterable[Row]) -> Iterator[tuple[Row, Mapping[str, list[Row]]]]:
    """(root, replies by the id of the message) of every tree; messages of a tree need not be neighbours."""
    children: dict[str, list[Row]] = defaultdict(list)
    roots = []
    for row in rows:
        if row["parent_id"] is None:
            roots.append(row)
        else:
            children[row["parent_id"]].append(row)
    for root in roots:
        yield root, children


def _rank(message: Row) -> float:
    return float("inf") if message["rank"] is None else float(message["rank"])


def _message(row: Row) -> dict[str, str]:
    return {"role": "assistant" if row["role"] == "assistant" else "user", "content": row["text"]}


ADAPTERS: dict[str, Adapter] = {
    function.__name__: function
    for function in (
        summarize_comparisons,
        helpsteer2,
        oasst_demonstrations,
        oasst_comparisons,
        oasst_prompts,
        wikitext_articles,
    )
}
