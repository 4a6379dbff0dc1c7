"""The tables of BENCHMARKS.md."""

from __future__ import annotations

from typing import Any


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seconds(told: tuple[float, float, float] | None) -> str:
    """Median and spread."""
    return "failed" if told is None else f"{told[0]:.3f} ({told[1]:.3f} to {told[2]:.3f})"


def ratios(rows: dict[str, dict[str, Any]]) -> str:
    """Every row with its target, met or not."""
    cells = []
    for name, row in rows.items():
        ratio, target = row.get("ratio"), row["target"]
        met = "failed" if ratio is None else "yes" if ratio >= target else "**no**"
        shown = "" if ratio is None else f"{ratio:.2f}x"
        sides = [seconds(row.get("ours")), seconds(row.get("theirs"))]
        cells.append([row["work"], row["dtype"], *sides, shown, f"{target:g}x", met, f"`{name}`"])
    return table(["work", "dtype", "ours, s", "peer, s", "ratio", "target", "met", "row"], cells)


def lengths(rows: dict[str, dict[str, Any]]) -> str:
    """Mean lengths of the responses on both sides, where they were drawn."""
    cells = [
        [f"`{name}`", *(f"{mean:.1f}" for mean in row["lengths"])] for name, row in rows.items() if row.get("lengths")
    ]
    return table(["row", "ours", "peer"], cells)


def phases(name: str, rows: list[dict[str, Any]]) -> str:
    """Where a run of ours spends its time."""
    cells = []
    for row in rows:
        spent = max(row["seconds"], 1e-9)
        cell = [row["phase"], f"{row['seconds']:.3f}", f"{spent / rows[-1]['seconds']:.1%}"]
        known = "tokens" in row
        cell += [f"{row['tokens'] / spent:,.0f}", f"{row['operations'] / 1e9:.1f}"] if known else ["", ""]
        cells.append([*cell, f"{row['at_rate'] / spent:.0%}" if known else ""])
    head = ["phase", "seconds", "share", "tokens/s", "GFLOP", "of the matmul rate"]
    return f"### {name}\n\n{table(head, cells)}"


def promises(rows: dict[str, dict[str, Any]], scaling: dict[str, Any] | None) -> str:
    """What must hold beside the ratios."""
    cells = []
    sides: dict[str, Any] = {}
    for name, row in rows.items():
        if name.startswith("ppo_full") and name.endswith("fp32"):
            sides |= row.get("phases") or {}
    for side, full in sides.items():
        whole = full[-1]
        loop = next(row["seconds"] for row in full if row["phase"] == "loop") / whole["seconds"]
        for rate, words in (("at_rate", "the matmul rate"), ("at_torchs_rate", "the rate of torch's own products")):
            share = whole[rate] / whole["seconds"]
            work = f"PPO at full length, fp32, {side}: counted operations at {words}, share of the time"
            cells.append([work, f"{share:.2f}", "≥ 0.75"])
        cells.append(
            [f"Lightning's loop with the data loader, share of that iteration, {side}", f"{loop:.2%}", "< 3 %"]
        )
    if scaling:
        each = scaling["per_episode"]
        first = next(iter(each.values()))
        for name, spent in each.items():
            cells.append(
                [
                    f"time per episode with {name} an iteration",
                    f"{1e3 * spent:.2f} ms ({spent / first - 1:+.1%})",
                    "± 10 %",
                ]
            )
    return table(["what must hold", "measured", "wanted"], cells) if cells else ""


def document(
    rows: dict[str, dict[str, Any]], scaling: dict[str, Any] | None, told: dict[str, str], *, runs: int
) -> str:
    """The whole file."""
    parts = [
        "# Benchmarks",
        "Written by `make bench` (`make peers` before it installs what is compared with). A single row: "
        "`python tests/benchmarks/bench.py --only ppo_full_fp32`.",
        table(["machine", ""], [[name, value] for name, value in told.items()]),
        "## Against peers",
        f"Medians and spreads of at least {runs} runs of each side, which take turns; all are warm processes that ran "
        "three times before and once at each turn, uncounted. The ratio is the peer's median by ours. Models, prompts, "
        "batches and dtype are the same on both sides. bf16 is autocast on weights in float32, of TRL `bf16=True`; "
        "PPOTrainer casts its updates alone, its two frozen models are loaded in bf16 and attend by plain products, "
        "which is fastest for it here; `as it comes` they are in float32 and attend as transformers chooses. The model "
        "that `generate` runs is loaded in bf16. `lean` is `module.padding_free=true module.old_logprobs=engine` under "
        "sdpa, `compiled passes` the callback of that name beside them. The settings of each side stand in "
        "`tests/benchmarks`.",
        ratios(rows),
    ]
    if any(row.get("lengths") for row in rows.values()):
        parts += ["Mean lengths of the responses, in tokens:", lengths(rows)]
    held = promises(rows, scaling)
    if held:
        parts += ["## Against the machine", held]
    shown: list[str] = []
    for name, row in rows.items():
        found = row.get("phases")
        tables = found if isinstance(found, dict) else {"": found} if found else {}
        shown += [phases(f"{name}{title and ': '}{title}", told_) for title, told_ in tables.items()]
    if shown:
        parts += [
            "## Where the time goes",
            "Operations are those that the work needs, without padding; the matmul rate is that of this machine for "
            "the model's matrices and as many rows as the phase has, in the row's dtype and by the same library "
            "(`trainer.cpu_matmul`), measured after the runs.",
            *dict.fromkeys(shown),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"
