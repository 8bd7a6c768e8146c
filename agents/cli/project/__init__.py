"""The commands of those who work on the project itself: its speed, its default policy, its docs."""
