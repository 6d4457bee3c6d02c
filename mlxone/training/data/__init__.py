"""From files to samples: reading, checking, tokens and masks, the order of steps.

`source.read` -> Data of checked rows; `encode.encode` -> samples or pairs; `order.Order` -> steps;
`inspect.inspect_data` -> what of it a person would want to see first.
"""
