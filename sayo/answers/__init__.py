"""Answers of responses: taken out of the text (`extract`) and compared with the accepted ones (`compare`)."""
