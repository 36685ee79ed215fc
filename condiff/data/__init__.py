"""Training data: photos from anywhere become exact, endless batches."""
