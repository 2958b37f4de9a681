"""Where exposures and outcomes of experiments are kept: the port `Store`, and SQL behind it."""
