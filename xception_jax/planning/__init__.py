"""Compiling for accelerators that are not attached, and analysing the compiled program."""
