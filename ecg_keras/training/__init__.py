"""Training any network on a store, with exact resumption after an interruption."""
