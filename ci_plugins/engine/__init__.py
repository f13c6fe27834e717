"""What executes the RUN steps of a plan."""
