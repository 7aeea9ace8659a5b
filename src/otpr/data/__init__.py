"""Data: episodes, demonstrations on disk, and what training draws its batches from."""
