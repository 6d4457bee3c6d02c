"""Data to an adapter: samples, losses and gradients, the loop, fusing. The base never changes."""
