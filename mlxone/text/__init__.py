"""Text to tokens and back: tokenizer, chat template, streaming decoder, stop strings.

Knows nothing of arrays, models or HTTP. Nothing is imported here, so each file loads only what it needs.
"""
