"""Results as files: the table of scores and the HTML report."""
