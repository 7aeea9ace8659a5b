"""What a person looks at after a run: learning curves, videos and the intervals that go with them."""
