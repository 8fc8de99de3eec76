"""The ten rows of the plan's matrix, in its order; one file each."""

from __future__ import annotations

from harness.matrix.model import Row
from harness.matrix.rows import (
    row_01_local_regression,
    row_02_reference_source,
    row_03_distributed_to_local,
    row_04_distributed_to_reference,
    row_05_distributed_to_distributed,
    row_06_mixed_sources,
    row_07_concurrent_writes,
    row_08_schema_change,
    row_09_drop_cleanup,
    row_10_multi_st_sharing_source,
)

ROWS: tuple[Row, ...] = tuple(
    module.ROW
    for module in (
        row_01_local_regression,
        row_02_reference_source,
        row_03_distributed_to_local,
        row_04_distributed_to_reference,
        row_05_distributed_to_distributed,
        row_06_mixed_sources,
        row_07_concurrent_writes,
        row_08_schema_change,
        row_09_drop_cleanup,
        row_10_multi_st_sharing_source,
    )
)
