"""Measurements against what people use instead: everything in one run, on the same cores, a CSV row for each."""
