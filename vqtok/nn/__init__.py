"""Building blocks with weights; they know nothing of codes."""
