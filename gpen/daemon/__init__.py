"""One process: what owns everything, and what makes it a daemon."""
