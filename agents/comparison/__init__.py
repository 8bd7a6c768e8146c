"""Many tuning runs with several agents on the same traffic, judged on traffic nobody has seen."""
