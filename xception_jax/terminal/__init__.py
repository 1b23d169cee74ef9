"""Output for people, on a terminal or redirected to a file."""
