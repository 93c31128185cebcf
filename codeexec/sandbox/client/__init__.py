"""What is sent to a runner, and what it answers, over any stream of bytes."""
