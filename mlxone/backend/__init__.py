"""The machine MLX runs on. `arrays` is the only file of the program that imports `mlx`."""
