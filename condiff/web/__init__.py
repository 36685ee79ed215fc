"""The page of `condiff web`: a server on this machine, and what the browser shows."""
