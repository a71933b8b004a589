"""Takes over the vectors of photos from the store of an earlier version of Lookalike. Does file I/O.

They are in STORE/image/<encoder>/part-000000.parquet and so on.
Those of texts are left: they are computed again in seconds. The directories may be deleted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.features.directory import Root
from pipeline.features.parts import Notice
from pipeline.features.vectors import VectorTable

_TAKEN_OVER = ".taken-over"  # Added to the name of a file that was read, so that each is read once.


def take_over_photos(root: Root, encoder: str, features: VectorTable, notice: Notice) -> int:
    """Store the vectors of an encoder that are in the format of before. Returns how many there were."""
    if root.local_path is None or "/" in encoder:
        return 0
    count = 0
    for path in sorted((root.local_path / "image" / encoder).glob("part-*.parquet")):
        count += _take_over(path, features, notice)
        path.rename(path.with_name(path.name + _TAKEN_OVER))
    if count:
        notice(f"{root.where}/image/{encoder}: {count} vectors taken over from the format of before; it may be deleted")
    return count


def _take_over(path: Path, features: VectorTable, notice: Notice) -> int:
    expected = pa.schema({"digest": pa.binary(16), "vector": pa.binary(4 * features.dim)})
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        notice(f"{path}: ignored, damaged: {error}")
        return 0
    if not table.schema.equals(expected):
        notice(f"{path}: ignored, other columns than those of {features.dim} dimensions")
        return 0
    if not len(table):
        return 0
    digests = [digest.hex() for digest in table["digest"].to_pylist()]
    vectors = np.frombuffer(b"".join(table["vector"].to_pylist()), "<f4").reshape(len(table), features.dim)
    new = ~features.contains(digests)
    features.add([digest for digest, is_new in zip(digests, new, strict=True) if is_new], vectors[new])
    features.flush()
    return len(table)
