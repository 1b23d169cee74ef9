"""A network's input: the specification that belongs to its weights, and the views made according to it."""
