"""What the tiny world has in place of a diffusion model."""
