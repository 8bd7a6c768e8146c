"""The algorithm, without vLLM: partition, routing, scores, waiting queue, rivals."""
