"""Access: clients, keys, tokens, rate limits, and logging in to the console."""
