"""Fine-tuning: a head on the features of a frozen backbone, the network unfrozen after it, and honest results."""
