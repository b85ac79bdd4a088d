"""Model folders of true layout with random weights, for tests and benchmarks; needs numpy alone."""
