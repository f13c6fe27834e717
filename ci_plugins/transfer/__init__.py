"""Moving layers: what is fetched, what is sent, how much at once, nothing twice."""
