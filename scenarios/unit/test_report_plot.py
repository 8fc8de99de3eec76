"""The timeline's geometry: the slowest write is never averaged away, nothing leaves the drawing, labels don't meet."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.rehearsal.model import LatencySample, RevisionRun
from harness.report import plot
from harness.report.plot import build_panels, downsample
from scenarios.fixtures.reports import make_result

latencies = st.floats(0, 1e7, allow_nan=False)
samples = st.lists(st.builds(LatencySample, st.floats(0, 100), latencies, st.just("s.t"), st.just(0)), max_size=80)


@given(samples=samples, buckets=st.integers(1, 50))
def test_downsampling_keeps_every_write_and_the_maximum(samples: list[LatencySample], buckets: int) -> None:
    found = downsample(samples, 0.0, 100.0, buckets)
    assert len(found) <= buckets
    assert sum(bucket.writes for bucket in found) == len(samples)
    assert max((b.max_ms for b in found), default=-1.0) == max((s.latency_ms for s in samples), default=-1.0)


def test_downsampling_of_one_moment_gives_one_bucket() -> None:
    found = downsample([LatencySample(3.0, 1.0, "s.t", 0), LatencySample(3.0, 5.0, "s.u", 1)], 3.0, 3.0, 10)
    assert [(bucket.max_ms, bucket.source, bucket.writes) for bucket in found] == [(5.0, "s.u", 2)]


@given(samples=samples)
def test_no_mark_leaves_the_drawing(samples: list[LatencySample]) -> None:
    runs = (RevisionRun("0001", "up", 10.0, 10.0), RevisionRun("0002", "up", 10.0, 90.0))
    (panel,) = build_panels(replace(make_result(writes_per_s=0), samples=tuple(samples), revisions=runs))
    for bar in panel.bars:
        assert plot.LEFT - 0.1 <= bar.x <= plot.WIDTH - plot.RIGHT + 0.1
        assert plot.TOP - 2.1 <= bar.y_max < bar.y_median <= plot.HEIGHT - plot.BOTTOM + 0.1
    for tick in panel.y_ticks:
        assert plot.TOP - 0.1 <= tick.at <= plot.HEIGHT - plot.BOTTOM + 0.1


def test_scale_is_logarithmic_with_whole_decades() -> None:
    writes = tuple(LatencySample(12.5, value, "s.t", 0) for value in (0.3, 250.0))
    panel = build_panels(replace(make_result(), samples=writes))[0]
    labelled = [tick for tick in panel.y_ticks if tick.label]
    assert [tick.label for tick in labelled] == ["0.1 ms", "1 ms", "10 ms", "100 ms", "1 s"]
    steps = [above.at - below.at for below, above in itertools.pairwise(labelled)]
    assert steps == pytest.approx([steps[0]] * 4, abs=0.2)


def test_labels_of_many_short_revisions_do_not_meet() -> None:
    runs = tuple(RevisionRun(f"{n:04}", "up", 10 + n * 0.01, 10.01 + n * 0.01) for n in range(40))
    last = RevisionRun("0099", "up", 10.4, 60.0)
    (panel,) = build_panels(replace(make_result(), revisions=(*runs, last)))
    for row in (0, 1):
        places = [band.label_x for band in panel.bands if band.label_row == row]
        assert all(b - a >= 30 for a, b in itertools.pairwise(places))
    assert panel.bands[-1].label_row is not None


def test_samples_that_are_no_number_are_left_out() -> None:
    odd = tuple(LatencySample(12.1, value, "s.t", 0) for value in (math.nan, math.inf, 2.0))
    panel = build_panels(replace(make_result(), samples=odd))[0]
    assert len(panel.bars) == 1
