"""Reports for people: learning curves, videos and intervals."""
