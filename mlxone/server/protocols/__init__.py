"""One pure codec per wire format. No sockets, no models, no clocks but those handed in, no other protocol."""
