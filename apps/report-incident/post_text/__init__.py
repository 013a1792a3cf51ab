"""The text of an incident's post, made of its event alone: the function posts it, and the console
shows it before a person confirms."""
