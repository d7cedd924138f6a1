"""The project's documents: their fenced blocks, commands and links."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[1]
DOCUMENTS = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Fence:
    """A fenced block: where it begins, the language that it says it is in, its text."""

    place: str
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command of a block of `sh`, with all lines that belong to it."""

    place: str
    text: str


def fences(document: Path) -> Iterator[Fence]:
    begun: tuple[int, str] | None = None
    held: list[str] = []
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.startswith("```"):
            held.append(line)
        elif begun is None:
            begun, held = (number, line.removeprefix("```").strip()), []
        else:
            yield Fence(f"{document.relative_to(PROJECT)}:{begun[0]}", begun[1], "\n".join(held))
            begun = None


def commands(document: Path) -> Iterator[Command]:
    """Yields the commands in order: a line, and further ones until the shell takes them for a whole."""
    for fence in fences(document):
        if fence.language != "sh":
            continue
        begun = ""
        for line in fence.text.splitlines():
            begun += re.sub(r"\s+# .*$", "", line) + "\n"
            if begun.strip() and not begun.rstrip().endswith("\\") and _is_whole(begun):
                yield Command(fence.place, begun.strip())
                begun = ""
        assert not begun.strip(), f"{fence.place}: the shell can't read {begun.strip()!r}"


def _is_whole(text: str) -> bool:
    return subprocess.run(["bash", "-n", "-c", text], capture_output=True, check=False).returncode == 0


def inline_code(document: Path) -> Iterator[str]:
    """Yields what stands in single backticks outside the fenced blocks."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", text)


def links(document: Path) -> Iterator[str]:
    """Yields the targets of links to other files, and to headings."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    yield from (target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target)


def anchors(document: Path) -> set[str]:
    """Returns the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
