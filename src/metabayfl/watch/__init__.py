"""A live view of a study in the browser: reads the files that a study writes anyway, in the same process or in another."""
