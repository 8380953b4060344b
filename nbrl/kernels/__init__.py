"""Ground floor: jitted kernels that know nothing of reinforcement learning."""
