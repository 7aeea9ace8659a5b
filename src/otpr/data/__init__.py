"""Episodes, demonstrations on disk, and the stores from which training draws batches."""
