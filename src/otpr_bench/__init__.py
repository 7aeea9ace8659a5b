"""Benchmarks: suites of tasks, a queue that runs algorithms on them, and a table of results per suite."""
