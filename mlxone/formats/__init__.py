"""What the files of a model say: configs and headers, read with care. Never the bytes of a tensor."""
