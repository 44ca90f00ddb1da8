"""Tables: rows of numbers and categories, with missing cells."""
