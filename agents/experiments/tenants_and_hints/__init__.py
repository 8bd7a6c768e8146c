"""Two small studies: what hints about outputs, and fair shares of tenants, are worth."""
