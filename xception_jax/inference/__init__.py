"""Inference with trained networks: predictions, explanations (Grad-CAM) and uncertainty."""
