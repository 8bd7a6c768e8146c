"""Closed-form predictions of a saturated engine, from which a twin takes a candidate."""
