"""What makes the documentation: `make docs` and docs/licences.md. Nothing here is part of the package."""
