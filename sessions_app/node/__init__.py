"""What a worker node does besides running programs: its tasks, its upkeep, its sandboxes."""
