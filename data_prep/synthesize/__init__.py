"""Training data written by models behind OpenAI-compatible servers: `sayo synthesize`."""
