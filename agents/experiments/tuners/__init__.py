"""A comparison of tuners on the same traffic, judged on traffic that nobody has seen."""
