"""A small task, for tests of comparisons."""

ENV = {
    "engine": "fake",
    "fake": {"optimum_seed": 1, "active": 2, "sensitivity": 6.0, "noise_sigma": 0.05},
    "workload": "mixed",
    "rates_per_s": [6.0],
    "window_s": 20.0,
    "settle_s": 2.0,
    "warmup_s": 5.0,
    "windows": 4,
}
