"""Many runs: suites of tasks, a queue that runs algorithms on them, and one table of raw results a suite."""
