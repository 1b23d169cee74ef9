"""Each framework's names of arrays and order of axes."""
