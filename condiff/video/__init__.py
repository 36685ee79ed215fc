"""Films: frames read and written by PyAV, colours that stay the same while things move."""
