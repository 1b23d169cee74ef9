"""What people read on a terminal or in a file that it is sent to."""
