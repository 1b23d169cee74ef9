"""Of the machine: the paths that users give, and files that are complete or do not exist."""
