"""docs/operations.md quotes messages as the code has them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.documents import PROJECT

PAGE = PROJECT / "docs" / "operations.md"
HOLE = "\0"


def quoted() -> Iterator[str]:
    """Yields the messages of the tables that say so in their head; other tables are in a reader's words."""
    in_table = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        in_table = line.startswith("|") and (in_table or line.startswith("| message |"))
        message = re.match(r"\| `(.+?)` \|", line)
        if message and in_table:
            yield message.group(1)


def _text(node: ast.expr) -> str:
    """Returns a message with a hole for each value in it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return _text(node.left) + _text(node.right) if isinstance(node, ast.BinOp) else HOLE


@pytest.fixture(scope="module")
def messages() -> str:
    """Returns the messages, a line each."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (PROJECT / "dssm").rglob("*.py")]
    texts = (
        node for tree in trees for node in ast.walk(tree) if isinstance(node, (ast.JoinedStr, ast.BinOp, ast.Constant))
    )
    return "\n".join({_text(node).replace("\n", " "): None for node in texts})


@pytest.mark.parametrize("message", list(quoted()))
def test_a_message_is_one_of_the_codes(messages: str, message: str) -> None:
    pattern = ".*".join(re.escape(part) for part in message.strip("…").split("…"))
    assert re.search(pattern, messages), f"no message of dssm/ is like it: {message}"


def test_other_words_are_not_taken_for_a_message(messages: str) -> None:
    assert len(list(quoted())) > 30
    assert not re.search(re.escape("is damaged and taken up"), messages)
