"""What a network is shown: the specification that belongs to its weights, and the views that are made by it."""
