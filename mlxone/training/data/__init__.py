"""From files to samples: reading, checking, tokens and masks, the order of steps."""
