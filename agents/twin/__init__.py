"""A digital twin beside a tuner: recent windows, served again under other policies."""
