"""Images by the thousand, and what is measured on them."""
