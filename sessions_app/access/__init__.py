"""Who calls, and what he may: clients, keys, tokens, rate limits, sign-ins to the console."""
