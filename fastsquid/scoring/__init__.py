"""What a trained detector says of images, without labels."""
