"""Programs come out: the vLLM engine, replica actors, weight transfer, and the map from tokens to lines."""
