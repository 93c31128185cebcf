"""How the service is doing: health, what is wrong and what to do, figures, metrics."""
