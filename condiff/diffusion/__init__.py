"""The mathematics of diffusion: noise process, parameterization, samplers, loss. No I/O."""
