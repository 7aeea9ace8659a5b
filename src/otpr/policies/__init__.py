"""Policies: encoder, generator and chooser in one object, their files, and how they are asked for actions."""
