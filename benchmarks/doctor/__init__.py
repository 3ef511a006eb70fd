"""How many seeded faults the doctor finds, and how often it cries wolf."""
