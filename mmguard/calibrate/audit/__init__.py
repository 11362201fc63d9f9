"""The search for each class's largest margins, which the audit judges."""
