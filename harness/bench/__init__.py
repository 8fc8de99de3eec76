"""Benchmarks: what capture and refresh cost, as ratios measured in one run, beside each other and interleaved."""
