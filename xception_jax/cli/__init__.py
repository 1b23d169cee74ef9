"""What the commands share: flags and errors, tables, pictures of batches."""
