"""Trained networks at work: predictions, where in a picture they come from, and how sure they are."""
