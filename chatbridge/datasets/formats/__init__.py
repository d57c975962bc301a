"""Public annotation layouts: one small file per family, each turning its files into records the builders know."""
