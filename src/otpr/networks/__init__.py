"""Networks as plain Equinox modules: what they compute and nothing of why."""
