"""Films: frames read and written by PyAV, with colours that follow moving objects."""
