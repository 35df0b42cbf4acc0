"""One script per claim about speed, memory or search; `python -m benchmarks` runs them and prints one table."""
