"""The study of orders: every policy, at its defaults and tuned, on every traffic and load."""
