"""Engine steps: what each computes, its time, and the latency model that fits them."""
