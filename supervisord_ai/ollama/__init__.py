"""The daemon's only way to Ollama: a client over httpx's API, on a transport of our own that keeps the cost low."""
