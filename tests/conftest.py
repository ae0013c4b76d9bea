"""Its place makes what tests share, such as `oracles`, importable by name."""
