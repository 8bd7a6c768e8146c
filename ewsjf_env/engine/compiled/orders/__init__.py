"""Who of those that wait is next: keys, scores, heaps and lanes in compiled code."""
