"""Photo files: read whatever they are, written with all they carried."""
