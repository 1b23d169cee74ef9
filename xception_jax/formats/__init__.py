"""Reading files of arrays. Nothing here depends on a network, and no code in a file is run."""
