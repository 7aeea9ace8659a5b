"""Data sets of other projects, read episode by episode: one file a format, and the rules they share."""
