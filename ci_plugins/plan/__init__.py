"""From stages to a plan: steps with keys known before anything runs, and what to do with each."""
