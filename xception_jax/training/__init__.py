"""Training: the loop, the step that it compiles, the state that it changes."""
