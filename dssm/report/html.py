"""Elements, tables and numbers of a page."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence

from dssm.report.decoding import percent


class Html(str):
    """Text that is HTML already; any other text is escaped."""

    __slots__ = ()


def tag(name: str, *content: object, **attributes: object) -> Html:
    """Returns an element. An attribute `class_` is `class`, and one that is None is left out.

    >>> tag("p", "a < b", tag("b", 1), class_="note")
    '<p class="note">a &lt; b<b>1</b></p>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(part if isinstance(part, Html) else html.escape(str(part)) for part in content)
    return Html(f"<{name}{given}>{inside}</{name}>")


def join(parts: Iterable[Html]) -> Html:
    return Html("".join(parts))


def figure_text(value: float) -> str:
    """Returns a number with four digits.

    >>> figure_text(1234567.0), figure_text(0.123456), figure_text(12.0)
    ('1,234,567', '0.1235', '12')
    """
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def count_cell(rows: float) -> Html:
    return tag("td", f"{rows:,.0f}", class_="number")


def number_cell(text: str) -> Html:
    return tag("td", text, class_="number")


def share_cell(share: float | None) -> Html:
    if share is None:
        return number_cell("–")
    return tag("td", percent(share), class_="bar", style=f"--share:{100 * min(max(share, 0), 1):.1f}%")


def text_cell(*content: object) -> Html:
    return tag("td", *content)


def words_cell(*content: object) -> Html:
    return tag("td", *content, class_="words")


def table(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[Html]]], classes: Sequence[str] = ()) -> Html:
    """Returns a table that scrolls by itself where the screen is narrow.

    Args:
      columns: headings; those that end in a space stand over text, the others over numbers.
      rows: the first cell's text, and the other cells.
      classes: of the rows.
    """
    heads = [tag("th", name.strip(), scope="col", class_=None if name.endswith(" ") else "number") for name in columns]
    drawn = [(tag("th", name, scope="row"), *cells) for name, cells in rows]
    named = [*classes, *[""] * (len(drawn) - len(classes))]
    lines = [tag("tr", *cells, class_=kind or None) for cells, kind in zip(drawn, named, strict=True)]
    return tag("div", tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *lines)), class_="scroll")


def note(*content: object) -> Html:
    return tag("p", *content, class_="note")


def ratio(part: float, whole: float) -> float | None:
    """Returns part / whole; None of nothing."""
    return part / whole if whole else None


def few(texts: Sequence[str]) -> str:
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")


def document(title: str, what: str, style: str, body: Html, script: str | None = None) -> str:
    """Returns a whole page: what is in it may neither load nor run anything, but for one script.

    Args:
      what: kind of the page, behind the title in the browser's tab.
      style: CSS.
      script: JavaScript at the end of the page; the page's policy knows it by its digest.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    if script is not None:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        body = join([body, tag("script", Html(script))])
    head = join(
        [
            Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
            tag("title", f"{title} · {what}"),
            tag("style", Html(style)),
        ]
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'
