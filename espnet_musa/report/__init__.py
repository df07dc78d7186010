"""Tables, figures and the HTML page, generated from the scores."""
