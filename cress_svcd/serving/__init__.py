"""A server that speaks the protocol of OpenAI's audio translations; see ``docs/serve.md``."""
