"""Conversion of policies from other libraries, and export to them."""
