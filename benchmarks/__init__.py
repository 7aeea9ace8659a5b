"""What this code costs, as ratios to plain alternatives: `make bench`. docs/performance.md says more."""
