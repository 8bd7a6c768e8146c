"""Engines: what serves a trace under a policy, real or simulated (see `base.Engine`)."""
