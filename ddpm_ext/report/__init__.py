"""A model's report: one page of HTML that holds all that it shows."""
