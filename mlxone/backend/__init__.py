"""The machine MLX runs on. `arrays` is the only file of the project that imports `mlx`."""
