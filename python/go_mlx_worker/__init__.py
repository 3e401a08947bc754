"""The Python side of go-mlx: serves one mlx-lm model over frames on stdin and stdout."""

PROTOCOL = 4
