"""The Arrow schemas of a run's streams, in memory, while hot, and sealed.

`stats` is wide: one row per step and site, a column per moment. `hist` has one row per step
and site with the occupied bins. `extra` is narrow: a row per value of a user's statistic.
`seq` is the number of the record within its stream.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitscope.run.record import PHASES
from fitscope.statistics.moments import COLUMNS

PHASE_CODES: dict[str, int] = {phase: code for code, phase in enumerate(PHASES)}
PHASE_DICTIONARY: pa.Array = pa.array(PHASES, pa.string())

_KEYS: list[pa.Field] = [
    pa.field("seq", pa.int64(), nullable=False),
    pa.field("step", pa.int64(), nullable=False),
    pa.field("epoch", pa.int32(), nullable=False),
    pa.field("phase", pa.dictionary(pa.int8(), pa.string()), nullable=False),
    pa.field("site", pa.int32(), nullable=False),
]
KEYS: tuple[str, ...] = tuple(field.name for field in _KEYS)

SCHEMAS: dict[str, pa.Schema] = {
    "stats": pa.schema(
        [*_KEYS, *(pa.field(name, pa.float64(), nullable=False) for name in COLUMNS)]
    ),
    "hist": pa.schema(
        [*_KEYS, pa.field("bins", pa.list_(pa.uint16())), pa.field("counts", pa.list_(pa.uint32()))]
    ),
    "extra": pa.schema(
        [
            *_KEYS,
            pa.field("statistic", pa.string(), nullable=False),
            pa.field("value", pa.float64(), nullable=False),
        ]
    ),
}


def phase_array(codes: NDArray[np.int8]) -> pa.DictionaryArray:
    """The `phase` column from phase codes."""
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), PHASE_DICTIONARY)


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    """A batch without rows that still carries the dictionaries."""
    columns = [
        phase_array(np.empty(0, np.int8)) if field.name == "phase" else pa.array([], field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def phase_codes(rows: pa.Table | pa.RecordBatch) -> NDArray[np.int8]:
    """Phase codes of rows, whatever dictionary a Parquet reader has made for them."""
    column = rows.column("phase")
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [np.empty(0, np.int8)]
    for chunk in chunks:
        coded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        codes = np.array([PHASE_CODES[name] for name in coded.dictionary.to_pylist()], np.int8)
        parts.append(codes[coded.indices.to_numpy(zero_copy_only=False)])
    return np.concatenate(parts)
