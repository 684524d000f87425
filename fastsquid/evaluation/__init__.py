"""What scores and heat maps are worth, given labels."""
