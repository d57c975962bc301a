"""One training step of synthetic data, simulated on fake tensors or really run, with the bytes that are alive in it."""
