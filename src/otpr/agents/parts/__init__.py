"""What algorithms are made of, and no algorithm by itself."""
