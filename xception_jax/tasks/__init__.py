"""What is asked of a network: losses and metrics of its logits, example by example."""
