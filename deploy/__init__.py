"""What is shipped beside the code, as package data: the topics' settings, the broker's POM, compose and units."""
