"""Tables of tokens that a SavedModel carries as text files, so that its folder can be moved."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

_MISSING = -1
# How a file writes what would end a line, where a token holds that.
_ESCAPES = {"\\": r"\\", "\n": r"\n", "\r": r"\r"}


class TokenTable(tf.Module):
    """Finds the places of tokens in a list of distinct ones, which lies in a file with a token a line."""

    def __init__(self, tokens: pa.StringArray, path: str) -> None:
        """Args: tokens: distinct. path: the file to write; TensorFlow copies it when the model is saved."""
        super().__init__()
        self._table: tf.lookup.StaticHashTable | None = None
        self._escapes = _ESCAPES if any(any_token_holds(tokens, end) for end in "\n\r") else {}
        if len(tokens) == 0:  # of an empty file TensorFlow makes no table
            return
        with Path(path).open("w", encoding="utf-8", newline="\n") as file:
            for batch in pa.table([tokens], ["token"]).to_batches(max_chunksize=2**16):
                file.writelines(self._line(token) for token in batch["token"].to_pylist())
        kinds = tf.lookup.TextFileIndex
        lines = tf.lookup.TextFileInitializer(path, tf.string, kinds.WHOLE_LINE, tf.int64, kinds.LINE_NUMBER)
        self._table = tf.lookup.StaticHashTable(lines, _MISSING)

    def _line(self, token: str) -> str:
        for letter, written in self._escapes.items():
            token = token.replace(letter, written)
        return token + "\n"

    def places(self, tokens: tf.Tensor) -> tf.Tensor:
        """Returns each token's place, int32 of the same shape; −1 for an unknown one."""
        if self._table is None:
            return tf.fill(tf.shape(tokens), _MISSING)
        for letter, written in self._escapes.items():
            tokens = tf.strings.regex_replace(tokens, re.escape(letter), written.replace("\\", r"\\"))
        return tf.cast(self._table.lookup(tokens), tf.int32)


def any_token_holds(tokens: pa.StringArray, text: str) -> bool:
    """Whether a text is a part of one of the tokens."""
    return bool(pc.any(pc.match_substring(tokens, text)).as_py())
