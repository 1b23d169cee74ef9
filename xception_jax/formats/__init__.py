"""Files of arrays, from bytes to arrays. Nothing here knows a network, and nothing in a file is run."""
