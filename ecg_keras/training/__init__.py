"""Training any network on a store; an interrupted training loses nothing."""
