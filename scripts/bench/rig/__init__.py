"""What the benchmarks share: a cluster, work, rounds, and how figures are shown."""
