"""What `xception_jax.benchmark` measures, and how: sides in processes of their own that take turns."""
