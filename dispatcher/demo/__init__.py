"""The demonstration: thousands of real tasks, killed processes, and a proof that anyone can compute again."""
