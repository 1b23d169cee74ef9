"""What `xception_jax.benchmark` measures, and how: each side runs in its own process, and the sides take turns."""
