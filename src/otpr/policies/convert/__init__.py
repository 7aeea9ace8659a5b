"""Policies of other libraries: read as ours, and written back."""
