"""Networks as plain Equinox modules, independent of algorithms."""
