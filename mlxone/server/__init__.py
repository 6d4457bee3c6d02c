"""HTTP over the service: the h11 loop, one table of routes, one codec per wire format."""
