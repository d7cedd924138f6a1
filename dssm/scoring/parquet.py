"""Parquet files of fixed-width vectors, written a row group at a time.

PyArrow 14 encodes the levels of a list value by value: 0.62 s a million vectors of 64 numbers on one core, more than a
third of what a small tower takes to make them. Here all lists of a column have the same length and no value is null,
so that the levels are one pattern and the values are copied as they lie in memory. What is written is plain Parquet
(format version 1, uncompressed pages, one page a column and row group; apache/parquet-format, parquet.thrift).

A page ends with its values, which are of fixed width: `read_matrices` takes them from there.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping, Sequence
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Kind = Literal["text", "constant", "float", "floats", "bytes", "halves"]
Values: TypeAlias = "np.ndarray | pa.Array | str"

MAGIC = b"PAR1"
CREATED_BY = "dssm version 1.0 (build 1)"
ELEMENT = "list.element"

# Thrift's compact protocol --------------------------------------------------------------------------

_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12
_Field: TypeAlias = tuple[int, bytes]  # type, content


def varint(number: int) -> bytes:
    """Returns an unsigned number, seven bits a byte, the lowest first."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _i32(number: int) -> _Field:
    return _I32, varint(number << 1)  # zigzag; nothing here is negative


def _i64(number: int) -> _Field:
    return _I64, varint(number << 1)


def _text(text: str) -> _Field:
    content = text.encode()
    return _BINARY, varint(len(content)) + content


def _list(kind: int, entries: Sequence[_Field]) -> _Field:
    size = len(entries)
    header = bytes([size << 4 | kind]) if size < 15 else bytes([0xF0 | kind]) + varint(size)
    return _LIST, header + b"".join(content for _, content in entries)


def _struct(fields: Mapping[int, _Field]) -> _Field:
    parts, last = [], 0
    for number, (kind, content) in fields.items():
        parts.append(bytes([(number - last) << 4 | kind]) + content)  # ids ascend by less than 16
        last = number
    return _STRUCT, b"".join(parts) + b"\0"


# Parquet's enumerations and structs ------------------------------------------------------------------

_INT32_TYPE, _FLOAT_TYPE, _BYTES_TYPE = 1, 4, 6
_REQUIRED, _REPEATED = 0, 2
_UTF8, _LIST_OF, _INT_8 = 0, 3, 15
_PLAIN, _RLE, _RLE_DICTIONARY = 0, 3, 8
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2

# Of each kind: the physical type, and how it is to be understood.
_TYPES: dict[Kind, tuple[int, int | None]] = {
    "text": (_BYTES_TYPE, _UTF8),
    "constant": (_BYTES_TYPE, _UTF8),
    "float": (_FLOAT_TYPE, None),
    "floats": (_FLOAT_TYPE, None),
    "bytes": (_INT32_TYPE, _INT_8),
    "halves": (_BYTES_TYPE, None),
}
_LISTS = ("floats", "bytes")
_WITH_DICTIONARY = ("constant", "bytes")


def _leaf(name: str, kind: Kind) -> _Field:
    physical, converted = _TYPES[kind]
    fields = {1: _i32(physical), 3: _i32(_REQUIRED), 4: _text(name)}
    return _struct(fields if converted is None else {**fields, 6: _i32(converted)})


def _schema(columns: Mapping[str, Kind]) -> list[_Field]:
    elements = [_struct({4: _text("schema"), 5: _i32(len(columns))})]
    for name, kind in columns.items():
        if kind not in _LISTS:
            elements.append(_leaf(name, kind))
            continue
        elements.append(_struct({3: _i32(_REQUIRED), 4: _text(name), 5: _i32(1), 6: _i32(_LIST_OF)}))
        elements.append(_struct({3: _i32(_REPEATED), 4: _text("list"), 5: _i32(1)}))
        elements.append(_leaf("element", kind))
    return elements


def _page(kind: int, size: int, values: int, encoding: int) -> bytes:
    """Returns a page's header. Args: size: bytes behind it; values: how many there are."""
    of_kind = {1: _i32(values), 2: _i32(encoding)}
    if kind == _DATA_PAGE:
        of_kind |= {3: _i32(_RLE), 4: _i32(_RLE)}
    place = 5 if kind == _DATA_PAGE else 7
    return _struct({1: _i32(kind), 2: _i32(size), 3: _i32(size), place: _struct(of_kind)})[1]


# Values ----------------------------------------------------------------------------------------------

Buffer: TypeAlias = "bytes | np.ndarray"


@functools.lru_cache(maxsize=4)  # all batches of a file but the last have the same rows
def list_levels(rows: int, width: int) -> bytes:
    """Returns the repetition and definition levels of lists that all have `width` values, none of them null.

    A list's first value has repetition level 0, the others 1; all have definition level 1. Each is preceded by its
    length, as a data page of version 1 wants it.
    """
    repeated = np.ones(rows * width, np.uint8)
    repeated[::width] = 0
    packed = np.packbits(repeated, bitorder="little").tobytes()
    repetition = varint(len(packed) << 1 | 1) + packed  # one run of bit-packed groups of eight
    definition = varint(rows * width << 1) + b"\1"  # one run of the same value
    return b"".join(struct.pack("<i", len(levels)) + levels for levels in (repetition, definition))


def plain_texts(texts: pa.Array) -> np.ndarray:
    """Returns texts as their bytes, each behind its length, as uint8."""
    texts = pa.concat_arrays([texts])  # offsets from 0
    _, offsets_buffer, data = texts.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32, len(texts) + 1).astype(np.int64)
    lengths = np.diff(offsets).astype("<u4").view(np.uint8).reshape(-1, 4)
    size = offsets[-1] + 4 * len(texts)
    if len(texts) and (np.diff(offsets) == offsets[1]).all():  # all of one length
        content = np.frombuffer(data, np.uint8, offsets[-1]) if offsets[-1] else np.empty(0, np.uint8)
        return np.concatenate([lengths, content.reshape(len(texts), -1)], axis=1)
    prefixes = (offsets[:-1] + 4 * np.arange(len(texts)))[:, None] + np.arange(4)
    made = np.empty(size, np.uint8)
    made[prefixes] = lengths
    is_text = np.ones(size, bool)
    is_text[prefixes] = False
    made[is_text] = np.frombuffer(data, np.uint8, offsets[-1]) if offsets[-1] else 0
    return made


def plain_halves(matrix: np.ndarray) -> np.ndarray:
    """Returns rows of float16 as binaries of 2 · width bytes, each behind its length: (rows, 4 + 2 · width) uint8."""
    rows, width = matrix.shape
    made = np.empty((rows, 4 + 2 * width), np.uint8)
    made[:, :4] = np.frombuffer(struct.pack("<i", 2 * width), np.uint8)
    made[:, 4:] = np.ascontiguousarray(matrix, "<f2").view(np.uint8)
    return made


def _dictionary(kind: Kind, values: Values) -> tuple[int, bytes]:
    """Returns the number of a dictionary's entries, and these."""
    if kind == "constant":
        assert isinstance(values, str)
        return 1, struct.pack("<i", len(values.encode())) + values.encode()
    # An int8's index is its own byte.
    return 256, np.arange(256).astype(np.uint8).view(np.int8).astype("<i4").tobytes()


def _content(kind: Kind, values: Values, rows: int) -> tuple[int, list[Buffer]]:
    """Returns the number of values of a data page, and what the page holds."""
    if kind == "constant":
        return rows, [b"\1" + varint(rows << 1) + b"\0"]  # indices of one bit, one run of the first entry
    if kind == "text":
        return rows, [plain_texts(values)]
    assert isinstance(values, np.ndarray)
    if kind == "float":
        return rows, [np.ascontiguousarray(values, "<f4")]
    if kind == "halves":
        return rows, [plain_halves(values)]
    levels = list_levels(rows, values.shape[1])
    if kind == "floats":
        return values.size, [levels, np.ascontiguousarray(values, "<f4")]
    indices = np.zeros((-(-values.size // 8), 8), np.uint8)
    indices.reshape(-1)[: values.size] = np.ascontiguousarray(values, np.int8).view(np.uint8).reshape(-1)
    return values.size, [levels, b"\x08" + varint(len(indices) << 1 | 1), indices]


# Files -----------------------------------------------------------------------------------------------


class VectorWriter:
    """Writes a file: row groups, and at `close` its footer.

    Args:
      file: open for bytes; it is not closed.
      columns: name → text: texts, a pa.StringArray · constant: one text for all rows · float: (rows,) float32 ·
        floats: (rows, width) float32, read as lists · bytes: (rows, width) int8, read as lists · halves:
        (rows, width) float16, read as binaries.
    """

    def __init__(self, file: BinaryIO, columns: Mapping[str, Kind]) -> None:
        self._file, self._columns = file, dict(columns)
        self._groups: list[_Field] = []
        self.rows = self.size = 0
        self._put([MAGIC])

    def write(self, values: Mapping[str, Values], rows: int) -> None:
        """Writes a row group. A page's values must take less than 2 GiB."""
        start, chunks = self.size, []
        for name, kind in self._columns.items():
            chunks.append(self._chunk(name, kind, values[name], rows))
        self._groups.append(_struct({1: _list(_STRUCT, chunks), 2: _i64(self.size - start), 3: _i64(rows)}))
        self.rows += rows

    def close(self) -> None:
        footer = _struct(
            {
                1: _i32(1),
                2: _list(_STRUCT, _schema(self._columns)),
                3: _i64(self.rows),
                4: _list(_STRUCT, self._groups),
                6: _text(CREATED_BY),
            }
        )[1]
        self._put([footer, struct.pack("<i", len(footer)), MAGIC])

    def _chunk(self, name: str, kind: Kind, values: Values, rows: int) -> _Field:
        start = self.size
        places: dict[int, _Field] = {}
        if kind in _WITH_DICTIONARY:
            entries, stored = _dictionary(kind, values)
            self._put([_page(_DICTIONARY_PAGE, len(stored), entries, _PLAIN), stored])
            places = {11: _i64(start)}
        places = {9: _i64(self.size), **places}
        encoding = _RLE_DICTIONARY if kind in _WITH_DICTIONARY else _PLAIN
        count, content = _content(kind, values, rows)
        size = sum(map(_size, content))
        self._put([_page(_DATA_PAGE, size, count, encoding), *content])
        path = [_text(name), *map(_text, ELEMENT.split("."))] if kind in _LISTS else [_text(name)]
        written = _i64(self.size - start)
        described = {
            1: _i32(_TYPES[kind][0]),
            2: _list(_I32, [_i32(used) for used in sorted({_PLAIN, _RLE, encoding})]),
            3: _list(_BINARY, path),
            4: _i32(0),  # uncompressed
            5: _i64(count),
            6: written,
            7: written,
            **places,
        }
        return _struct({2: _i64(start), 3: _struct(described)})

    def _put(self, parts: Sequence[Buffer]) -> None:
        for part in parts:
            self._file.write(part if isinstance(part, bytes) else part.data)
            self.size += _size(part)


def _size(part: Buffer) -> int:
    return len(part) if isinstance(part, bytes) else part.nbytes


def read_matrices(content: bytes | pa.Buffer, columns: Mapping[str, tuple[Kind, int]]) -> dict[str, np.ndarray]:
    """Returns columns of numbers of a file that `VectorWriter` wrote, without decoding its levels.

    Args:
      content: the whole file.
      columns: those wanted, each with its kind (float, floats, bytes or halves) and width.
    Returns: by name, (rows, width) in the kind's own numbers; (rows,) of a float.
    Raises: ValueError where another writer made the file, or it has other columns.
    """
    meta = pq.read_metadata(pa.BufferReader(content))
    if meta.created_by != CREATED_BY:
        raise ValueError(f"written by {meta.created_by}, not by {CREATED_BY}")
    paths = {meta.schema.column(place).path: place for place in range(meta.num_columns)}
    found: dict[str, np.ndarray] = {}
    for name, (kind, width) in columns.items():
        path = f"{name}.{ELEMENT}" if kind in _LISTS else name
        if path not in paths:
            raise ValueError(f"no column '{path}'")
        parts = [_tail(content, meta.row_group(n), paths[path], kind, width) for n in range(meta.num_row_groups)]
        found[name] = np.concatenate(parts) if len(parts) > 1 else (parts or [_empty(kind, width)])[0]
    return found


def _empty(kind: Kind, width: int) -> np.ndarray:
    return np.empty(
        0 if kind == "float" else (0, width), {"bytes": np.int8, "halves": np.float16}.get(kind, np.float32)
    )


def _tail(content: bytes | pa.Buffer, group: pq.RowGroupMetaData, place: int, kind: Kind, width: int) -> np.ndarray:
    """Returns the values of a column and row group, which are the last bytes of its chunk."""
    chunk, rows = group.column(place), group.num_rows
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    end = start + chunk.total_compressed_size
    if chunk.num_values != (rows * width if kind in _LISTS else rows):
        raise ValueError(f"{chunk.num_values} values in {rows} rows, expected {width} a row")
    if kind == "float":
        return np.frombuffer(content, "<f4", rows, end - 4 * rows)
    if kind == "floats":
        return np.frombuffer(content, "<f4", rows * width, end - 4 * rows * width).reshape(rows, width)
    if kind == "bytes":
        values = rows * width
        return np.frombuffer(content, np.int8, values, end - -(-values // 8) * 8).reshape(rows, width)
    stride = 4 + 2 * width
    halves = np.frombuffer(content, np.uint8, rows * stride, end - rows * stride).reshape(rows, stride)
    return np.ascontiguousarray(halves[:, 4:]).view("<f2")
