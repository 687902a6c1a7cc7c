"""What the page shows: tables, plots, and their places in it."""
