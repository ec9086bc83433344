"""What single samples did to a step: their shares of a gradient."""
