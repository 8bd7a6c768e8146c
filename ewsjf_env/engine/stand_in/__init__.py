"""Stand-ins for a GPU, with which the whole real vLLM runs on a CPU."""
