"""One function a route: what was asked, given to the context; its answer, given to the codec."""
