"""What the commands share: flags and errors, tables, images of batches."""
