"""The Bayesian meta-optimizer: a contextual Gaussian process, and Optuna's samplers."""
