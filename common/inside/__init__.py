"""Looking inside a network: how its layers learn, what they give, where the evidence lies."""
