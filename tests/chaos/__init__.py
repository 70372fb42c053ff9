"""Things that are killed and broken on purpose."""
