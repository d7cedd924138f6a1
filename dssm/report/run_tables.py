"""The report's sections on what came out: gates, indexes, example users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dssm.published import GateDecision, Published
from dssm.report.html import Html, count_cell, figure_text, join, note, number_cell, table, tag, text_cell, words_cell
from dssm.report.item_words import Items, ItemWords
from dssm.report.run_facts import ExampleUser, NamedItem, RunFacts

# Gates -------------------------------------------------------------------------------------------------


def gates(facts: RunFacts) -> Html | None:
    """Tells what the gates looked at before a version went out, or did not."""
    parts = []
    for job, refusal in facts.refusals.items():
        if refusal.gates:
            parts.append(tag("h3", f"Refused: what {job} would have published"))
            parts.append(note(f"Gates that had looked by {refusal.at:%Y-%m-%d %H:%M} UTC, when one refused."))
            parts.append(_decisions(refusal.gates))
    for name, published in facts.tables.items():
        manifest = published.manifest
        parts.append(tag("h3", f"Table {manifest.table}, dt={manifest.date}"))
        parts.append(note(_of_version(published)))
        if manifest.overridden:
            parts.append(tag("p", "Published with --force, over: ", "; ".join(manifest.overridden), class_="bad"))
        elif manifest.forced:
            parts.append(note("Published with --force, which no gate would have needed."))
        if manifest.gates:
            parts.append(_decisions(manifest.gates))
        else:
            parts.append(note(f"No gate looked at the {name}."))
    return join(parts) if parts else None


def _of_version(published: Published) -> str:
    manifest = published.manifest
    told = [
        f"Version {manifest.version} of {manifest.at:%Y-%m-%d %H:%M} UTC, model {manifest.model_version}: "
        f"{manifest.rows:,} vectors, {manifest.vector_dim} × {manifest.dtype}; {manifest.scored:,} scored"
    ]
    if manifest.copied:
        told.append(f", {manifest.copied:,} taken from {manifest.previous}")
    if manifest.least_drift is not None:
        drift, whose = manifest.least_drift
        told.append(f"; mean cosine to the {whose} of {manifest.previous} {drift:.4f}")
    for what, rows in (("in quarantine", manifest.quarantined), ("of the catalogue not encoded", manifest.not_encoded)):
        if rows:
            told.append(f"; {sum(rows.values()):,} rows {what}")
    return f"{''.join(told)}."


def _decisions(decisions: Sequence[GateDecision]) -> Html:
    rows = [(gate.gate, list(_decision(gate))) for gate in decisions]
    return table(["gate ", "decision ", "found", "limit", "why "], rows)


def _decision(gate: GateDecision) -> Iterator[Html]:
    yield tag("td", "passed" if gate.passed else "refused", class_="good" if gate.passed else "bad")
    for value in (gate.found, gate.limit):
        yield number_cell("–" if value is None else figure_text(value))
    yield words_cell(gate.reason)


# Examples ----------------------------------------------------------------------------------------------


def examples(facts: RunFacts, items: Items) -> Html | None:
    """Shows users with what they did, what they would have been shown and what they clicked then, side by side."""
    users = facts.examples.users if facts.examples is not None else []
    if not users:
        return None
    shown = {one.item for user in users for one in (*user.history, *user.clicked, *user.recommended)}
    words = items.named(sorted(shown))
    return join(
        [
            note(
                "Users of the test window, the most active first: the last items before it, newest first; what the "
                "model would have shown, without those seen; and what was clicked then. ✓: recommended and clicked."
            ),
            *[_example(user, words) for user in users],
        ]
    )


def _example(user: ExampleUser, words: Mapping[str, ItemWords]) -> Html:
    recommended = {one.item for one in user.recommended}
    hits = sum(one.hit for one in user.recommended)
    columns = [
        ("Before", [_entry(one, words) for one in user.history]),
        ("Recommended", [_entry(one, words, one.hit, f"{one.score:.3f}") for one in user.recommended]),
        (
            "Clicked then",
            [_entry(one, words, one.item in recommended, "seen before" if one.seen else "") for one in user.clicked],
        ),
    ]
    title = f"User {user.user}"
    before = f"{user.items_before:,} item{'' if user.items_before == 1 else 's'} before"
    told = f"{before} · {hits} of {len(user.recommended)} recommended were clicked"
    lists = [
        tag("div", tag("h4", name), tag("ol", *entries) if entries else note("nothing")) for name, entries in columns
    ]
    return tag(
        "article", tag("h3", title), note(told), tag("div", *lists, class_="lists"), class_="example", aria_label=title
    )


def _entry(one: NamedItem, words: Mapping[str, ItemWords], hit: bool = False, beside: str = "") -> Html:
    found = words.get(one.item)
    name, category = (found.name, found.category) if found is not None else (one.name, None)
    faint = " · ".join(part for part in (category, beside) if part)
    parts: list[object] = [tag("span", "✓ ", class_="good")] if hit else []
    return tag("li", *parts, name, *([" ", tag("small", faint)] if faint else []), class_="hit" if hit else None)


# Indexes -----------------------------------------------------------------------------------------------


def indexes(facts: RunFacts) -> Html | None:
    """Tells how good the engines' searches are, beside the exact one."""
    found = facts.index
    if found is None:
        return None
    cutoffs = sorted({cutoff for sink in found.sinks for cutoff in sink.recall})
    rows = []
    for sink in found.sinks:
        state = "answers" if sink.switched else "refused" if sink.failures else "waits"
        cells = [text_cell(sink.kind), tag("td", state, class_="good" if sink.switched else "bad")]
        for k in cutoffs:
            recall, least = sink.recall.get(k), sink.min_recall.get(k, 0.0)
            low = recall is not None and recall < least
            cells.append(
                tag("td", "–" if recall is None else f"{recall:.4f}", class_="number bad" if low else "number")
            )
        cells += [number_cell(f"{sink.queries_per_s[k]:,.0f}" if k in sink.queries_per_s else "–") for k in cutoffs]
        cells.append(number_cell("–" if sink.build_seconds is None else f"{sink.build_seconds:.1f}"))
        rows.append((sink.sink, [*cells, count_cell(sink.count)]))
    heads = ["sink ", "engine ", "state ", *[f"recall@{k}" for k in cutoffs], *[f"queries/s, K {k}" for k in cutoffs]]
    told = (
        f"Recall against the exact search, over {found.queries:,} {found.queries_of}; that one answers "
        f"{found.exact_queries_per_s:,.0f} queries/s. A version answers once its recall is enough."
    )
    if any(sink.how == "fetch" for sink in found.sinks):
        told += " A store without a search of its own is fetched once, and compared: its queries/s are of that call."
    return join([note(told), table([*heads, "build, s", "vectors"], rows)])
