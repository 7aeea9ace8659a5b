"""What acts: encoder, generator and chooser as one policy, its files, and how it is asked for actions."""
