"""One file a group of benchmarks; `harness.bench.registry` names them."""
