"""Training data: photos from any source as endless, reproducible batches."""
