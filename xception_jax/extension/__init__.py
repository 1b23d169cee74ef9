"""How a program adds networks, data sets, losses, metrics, augmentations and optimizers of its own."""
