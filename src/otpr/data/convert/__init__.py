"""Readers for data sets of other projects, one module for each format, and their common rules."""
