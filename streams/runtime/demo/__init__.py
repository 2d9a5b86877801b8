"""Does the bell ring, and when? Tocsin on real data, with a fault put in on purpose."""
