"""The page of `condiff web`: a server on this machine, and the browser's files."""
