"""Training: the loop, the compiled step, and the state."""
