"""Tuners and evaluation: everything that runs beside the engine, never inside it."""
