"""The papers' figures and tables: what each shows, what the paper found, and one command that computes it here."""
