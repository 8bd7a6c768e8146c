"""The orders: which waiting request is next."""
