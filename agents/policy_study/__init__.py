"""Every policy, by default and tuned, on every traffic and load: the study of orders."""
