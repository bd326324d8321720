"""Other people's results as tickets and records of ours."""
