"""The networks: memory, in-painting block, generator, discriminator, detector."""
