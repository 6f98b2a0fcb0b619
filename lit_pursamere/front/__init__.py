"""The front: an evaluation in one line, and a look at a few images before it is paid for."""
