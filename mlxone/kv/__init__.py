"""What a layer remembers of the tokens it has seen. One file for each kind of memory."""
