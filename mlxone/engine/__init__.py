"""Tokens to tokens. A request is a row; everything that is one request's own lives on it."""
