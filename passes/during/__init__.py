"""What happens during training beside it, found by name."""
